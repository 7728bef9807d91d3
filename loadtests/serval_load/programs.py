"""Programs under measurement: start them, wait until they serve, count their CPU time and memory."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from serval_load.settings import environment_with

ROOT = Path(__file__).resolve().parents[2]
DEMO_MODEL = ROOT / "model_adapter/serval_sglang/demo/checkpoint"
# Import path of this checkout's gateway, for an interpreter without it.
SERVER = ROOT / "server"
# Options of a stand-in whose steps take about as long as on a GPU.
QUICK = (
    "--decode-base-s=0.004",
    "--decode-request-s=0.0001",
    "--prefill-base-s=0.002",
    "--prefill-token-s=0.000005",
)
# The same with memory for several code repositories at once.
ROOMY = (*QUICK, "--kv-tokens=2000000")
# Linux's CPUCLOCK_SCHED: all CPU time, in the clock id of a process.
_CPUCLOCK_SCHED = 2
_START_TIMEOUT_S = 180
_STOP_TIMEOUT_S = 40


@dataclass(frozen=True)
class Program:
    """A running program; `output` is the file with its standard output and error."""

    process: "subprocess.Popen[bytes]"
    output: Path
    name: str

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_s(self) -> float:
        """CPU time so far of the program and its living descendants."""
        return sum(cpu_s(pid) for pid in process_tree(self.pid))

    def memory_mb(self) -> float:
        """Memory of the program and its descendants, counting shared pages once."""
        return sum(_proportional_mb(pid) for pid in process_tree(self.pid))

    def open_files(self) -> int:
        """File descriptors of the program and its descendants."""
        return sum(len(_listed(f"/proc/{pid}/fd")) for pid in process_tree(self.pid))

    async def wait_for_line(self, wanted: str) -> str:
        """Wait for the first line with `wanted`. Raises `RuntimeError` at the program's end or a timeout."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.output.read_text(errors="replace").splitlines():
                if wanted in line:
                    return line
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.name} did not start:\n{self.output.read_text(errors='replace')[-4000:]}")


def process_tree(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for parent in found:
        for task in _listed(f"/proc/{parent}/task"):
            try:
                children = Path(f"/proc/{parent}/task/{task}/children").read_text()
            except OSError:  # the process has ended
                continue
            found += [int(child) for child in children.split()]
    return found


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, 0 if it has ended. Finer than the hundredths of `/proc`."""
    try:
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    except OSError:
        return 0.0


def _proportional_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) / 1024


def free_port() -> int:
    """Port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def running_program(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cores: str | None = None,
) -> AsyncIterator[Program]:
    """Run a program, pinned to `cores` (a list for taskset) if given, and stop it at the end."""
    pinned = ["taskset", "-c", cores, *command] if cores else list(command)
    with tempfile.NamedTemporaryFile(prefix=f"serval-load-{name}-", suffix=".log") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # starts at once
            pinned,
            env=environment_with(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield Program(process, Path(log.name), name)
        finally:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, _STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@asynccontextmanager
async def running_stand_in(*options: str, cores: str | None = None) -> AsyncIterator[tuple[Program, str]]:
    """Run `python -m serval_load engine OPTIONS` on a free port; yields the program and its URL."""
    command = [sys.executable, "-m", "serval_load", "engine", "--port=0", *options]
    async with running_program("stand-in", command, cores=cores) as program:
        line = await program.wait_for_line(" on http://")
        yield program, line.rpartition(" on ")[2]


@asynccontextmanager
async def running_gateway(
    engine_url: str,
    *options: str,
    environment: Mapping[str, str],
    cores: str | None = None,
    python: Path | None = None,
    before: Sequence[str] = (),
) -> AsyncIterator[tuple[Program, str]]:
    """Run `serval gateway OPTIONS` on a free port with the demo model's tokenizer.

    Yields the program and its URL. `python` is the interpreter of another environment; `before` is a command
    that runs the one after it.
    """
    command = [
        *before,
        str(python or sys.executable),
        "-m",
        "serval",
        "gateway",
        f"--engine-url={engine_url}",
        "--port=0",
    ]
    command += [f"--model={DEMO_MODEL}", "--served-model-name=stand-in", *options]
    async with running_program("gateway", command, environment=environment, cores=cores) as program:
        line = await program.wait_for_line(" on http://127.0.0.1:")
        yield program, line.rpartition(" on ")[2]
