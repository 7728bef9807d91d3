"""Small helpers to start programs in tests and to be sure that they are gone afterwards."""

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
    """A TCP port on 127.0.0.1 that nobody listens on right now, and that the system gives to no connection.

    A program binds it seconds later, while other tests open thousands of connections.
    """
    while True:
        # Not of the module's own generator, which tests and Hypothesis seed.
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
        """Everything printed so far."""
        return "\n".join(self.lines)

    def wait_for_line(self, wanted: Callable[[str], bool], *, timeout_s: float) -> str:
        """The first line that `wanted` accepts; fails with the output if the program ends or is too slow."""
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
        """Send a signal to the program itself (not to its group)."""
        self.process.send_signal(number)

    def wait(self, *, timeout_s: float) -> int:
        """Exit status; fails with the output if it does not end in time."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.output}") from None
        self._reader.join(timeout=5)
        return status


@contextmanager
def running(argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Iterator[Program]:
    """Start a program; on the way out stop it and whatever it started."""
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
    """Pids of all processes below `pid`, whatever group or session they are in."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended while we looked
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
