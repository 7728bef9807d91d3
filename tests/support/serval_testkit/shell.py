"""Interactive shells on terminals of their own, into which tests type."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# bash counts its commands, so that the end of each can be told.
_PROMPT = "<\\#>$ "
_ROWS, _COLUMNS = 60, 400


class Shell:
    """A bash that thinks that a person types. `shown` is all that its terminal has shown."""

    def __init__(self, *, cwd: Path, environment: Mapping[str, str]) -> None:
        self._terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--norc", "--noprofile", "-i"],
            cwd=cwd,
            env={"TERM": "dumb", "PS1": _PROMPT, **environment},
            stdin=inside,
            stdout=inside,
            stderr=inside,
        )
        os.close(inside)
        self.shown = ""
        self._commands = 1
        threading.Thread(target=self._read, daemon=True).start()
        self.wait_for(re.escape("<1>$ "))

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._terminal, 1 << 16)
            except OSError:  # the last process on the terminal has ended
                return
            self.shown += data.decode("utf-8", "replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Type text; it is a command once it ends in a line break."""
        os.write(self._terminal, text.encode())

    def wait_for(self, pattern: str, *, timeout_s: float = 120) -> re.Match[str]:
        """Wait for a pattern in all that was shown; fail with it."""
        deadline = time.monotonic() + timeout_s
        while (found := re.search(pattern, self.shown)) is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"{pattern!r} was not shown in {timeout_s} s:\n{self.shown}")
            time.sleep(0.05)
        return found

    def run(self, command: str, *, timeout_s: float = 120) -> str:
        """Type a command, wait for the next prompt, and return what was shown in between."""
        before = len(self.shown)
        self.type(command.rstrip("\n") + "\n")
        self._commands += 1
        end = self.wait_for(re.escape(f"<{self._commands}>$ "), timeout_s=timeout_s)
        return self.shown[before : end.start()]

    def interrupt(self) -> None:
        """Press Ctrl+C."""
        self.type("\x03")


@contextmanager
def open_shell(*, cwd: Path, environment: Mapping[str, str]) -> Iterator[Shell]:
    """A new shell; on exit all that runs in it is hung up."""
    shell = Shell(cwd=cwd, environment=environment)
    try:
        yield shell
    finally:
        shell.process.send_signal(signal.SIGHUP)
        shell.process.wait(30)
