"""A child process in its own group: its output is relayed line by line, and a stop ends the whole group."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

_TAIL_LINES = 200
_MAX_LINE_BYTES = 1 << 20
_OUTPUT_GRACE_S = 1.0
_PR_SET_PDEATHSIG = 1

# Receives the name of a child and one line of its output.
LineSink = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """The process to run: `name` prefixes its relayed output; `environment` is its whole environment.

    `relay` False: it writes to this process's own output. `descriptors` stay open in the child.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    relay: bool = True
    descriptors: Sequence[int] = ()


@dataclass
class ChildProcess:
    """A running child. `tail` holds its last lines of output, to explain its end."""

    spec: ProcessSpec
    process: asyncio.subprocess.Process
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))
    relay: asyncio.Task[None] | None = None

    @property
    def returncode(self) -> int | None:
        """Exit status, or None while it runs."""
        return self.process.returncode

    async def wait(self) -> int:
        """Wait for the end of the process and of its output; return the exit status."""
        status = await self.process.wait()
        if self.relay is not None:
            # A grandchild that outlives its parent keeps the pipe open: do not wait for it forever.
            await asyncio.wait([self.relay], timeout=_OUTPUT_GRACE_S)
        return status

    async def stop(self, *, grace_s: float) -> int:
        """Ask the process to end, then end its whole group; return the exit status."""
        if self.process.returncode is None:
            self.process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), grace_s)
        self.kill_group()
        return await self.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.process.returncode is None:
            self.process.send_signal(number)

    def kill_group(self) -> None:
        """Kill the rest of the process group, which the child leads."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in this interpreter's environment."""
    # -P keeps the working directory off the import path: it may be an untrusted checkpoint with code in it.
    return [sys.executable, "-P", "-m", module, *arguments]


def print_line(name: str, line: str) -> None:
    """Print a line on standard error, prefixed with the name of its process."""
    print(f"{name} | {line}", file=sys.stderr, flush=True)


async def start(spec: ProcessSpec, *, on_line: LineSink = print_line) -> ChildProcess:
    """Start the process, and relay each line of its output to `on_line`."""
    if not spec.relay:
        return ChildProcess(spec, await _run(spec, output=None))
    # Not a pipe of asyncio's: with that, `Process.wait` would not return while a grandchild holds it open.
    read_end, write_end = os.pipe()
    try:
        process = await _run(spec, output=write_end)
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    child = ChildProcess(spec, process)
    child.relay = asyncio.create_task(_relay_output(child, read_end, on_line))
    return child


async def _run(spec: ProcessSpec, *, output: int | None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *spec.argv,
        env=dict(spec.environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=spec.descriptors,
        # Ctrl-C in the terminal must not reach the group: the parent stops the children in order.
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )


async def _relay_output(child: ChildProcess, read_end: int, on_line: LineSink) -> None:
    stream = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    with os.fdopen(read_end, "rb") as pipe:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
        try:
            while True:
                try:
                    raw = await stream.readline()
                except ValueError:  # a line over the limit: asyncio has dropped it
                    continue
                if not raw:
                    return
                line = raw.decode("utf-8", "replace").rstrip()
                child.tail.append(line)
                on_line(child.spec.name, line)
        finally:
            transport.close()


def _die_with_parent() -> None:
    """Have the kernel terminate the child if the parent is killed. Runs in the child, before exec."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
