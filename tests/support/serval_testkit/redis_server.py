"""A real Redis server without persistence, on a Unix socket in a temporary folder."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

# Looked up on import, before a test changes PATH.
_PROGRAM = shutil.which("redis-server")
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 60


class RedisServer:
    """A server that can be killed and started again, empty, at the same address."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [
            self._program,
            "--port",
            "0",
            "--unixsocket",
            self.socket,
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.socket.parent, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self.admin().ping()
            except (RedisError, OSError):
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        """Kill the server; all its data is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(_STOP_TIMEOUT_S)
            self._process = None

    def freeze(self) -> None:
        """Suspend the server until `thaw`: it accepts connections but does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the server."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def admin(self) -> "Redis":
        """Return a client for tests."""
        return Redis(unix_socket_path=str(self.socket), decode_responses=True)


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """Yield a running server. Skips the test if Redis is not installed."""
    if _PROGRAM is None:
        pytest.skip("Redis is not installed (Debian: apt-get install redis-server)")
    with tempfile.TemporaryDirectory(prefix="serval-redis-") as name:
        server = RedisServer(_PROGRAM, Path(name))
        server.start()
        try:
            yield server
        finally:
            server.kill()
