"""Helpers to start programs in tests and to make sure that they are gone afterwards."""

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nobody listens and that the system assigns to no connection.

    A program binds it seconds later, while other tests open thousands of connections.
    """
    while True:
        # Not from the module's shared generator, which tests and Hypothesis seed.
        port = random.SystemRandom().randrange(10_000, 21_700)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


class Program:
    """A started program whose output is collected line by line while it runs."""

    def __init__(self, argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    @property
    def output(self) -> str:
        """Return everything printed so far."""
        return "\n".join(self.lines)

    def wait_for_line(self, wanted: Callable[[str], bool], *, timeout_s: float) -> str:
        """Wait for a line that `wanted` accepts; fail with the output if the program ends or is too slow."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        while True:
            with self._changed:
                if seen == len(self.lines):
                    self._changed.wait(0.2)
                fresh, seen = self.lines[seen:], len(self.lines)
            for line in fresh:
                if wanted(line):
                    return line
            if not fresh and self.process.poll() is not None and not self._reader.is_alive():
                raise AssertionError(
                    f"ended with {self.process.returncode} before it was ready:\n{self.output}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(f"not ready after {timeout_s} s:\n{self.output}")

    def signal(self, number: int) -> None:
        """Send a signal to the program itself, not to its group."""
        self.process.send_signal(number)

    def wait(self, *, timeout_s: float) -> int:
        """Return the exit status; fail with the output if the program does not end in time."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.output}") from None
        self._reader.join(timeout=5)
        return status


@contextmanager
def running(argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Iterator[Program]:
    """Start a program; on exit stop it and all processes that it started."""
    program = Program(argv, cwd=cwd, environment=environment)
    started: set[int] = set()
    try:
        yield program
        started = descendants(program.process.pid)
    finally:
        started |= descendants(program.process.pid)
        if program.process.poll() is None:
            program.signal(signal.SIGTERM)
            try:
                program.process.wait(30)
            except subprocess.TimeoutExpired:
                program.process.kill()
                program.process.wait()
        for pid in started:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> set[int]:
    """Return the pids of all descendants of `pid`, whatever group or session they are in."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            children.setdefault(int(after_name[1]), []).append(int(entry.name))
    found: set[int] = set()
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.add(child)
            queue.append(child)
    return found


def is_running(pid: int) -> bool:
    """Return True if `pid` is a live process; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
