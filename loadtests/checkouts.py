"""Shared parts of the scripts that compare checkouts of the gateway: starting one, and the order of runs."""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import uvloop

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "model_adapter/serval_sglang/demo/checkpoint"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Limits that are counted with each request and never reached.
_LIMITS = dict.fromkeys(
    (
        "SERVAL_REQUESTS_PER_MINUTE",
        "SERVAL_TOKENS_PER_MINUTE",
        "SERVAL_CONCURRENT_REQUESTS",
        "SERVAL_TOKENS_PER_DAY",
    ),
    "1000000000",
)
# Answers of the engine stand-in to the gateway's requests at start-up.
ABOUT = {
    "/model_info": {"model_path": str(MODEL)},
    "/server_info": {"max_req_input_len": 8000, "incremental_streaming_output": True},
    "/v1/models": {"data": [{"id": "m", "max_model_len": 8192}]},
}
# A prompt of about 1.2 KB: at least as many tokens as `event` counts.
PROMPT = "Explain how a cache works, with an example from everyday life. " * 18
M = TypeVar("M")


def event(rid: str, number: int, *, last: bool) -> bytes:
    """Server-sent event of one token, as SGLang 0.5.23 writes it."""
    meta = {
        "id": rid,
        "finish_reason": {"type": "stop", "matched": 2} if last else None,
        "prompt_tokens": 120,
        "weight_version": "default",
        "total_retractions": 0,
        "completion_tokens": number + 1,
        "cached_tokens": 112,
        "cached_tokens_details": None,
        "dp_rank": None,
        "reasoning_tokens": 0,
    }
    body = {"text": " token", "output_ids": [number % 1000], "meta_info": meta}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def rid_of(request: bytes) -> str:
    """Id of a request to `/generate`. The gateway refuses an answer with any other."""
    found = re.search(rb'"rid": ?"([^"]+)"', request)
    assert found is not None, request[:300]
    return found[1].decode()


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of HTTP's chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True)
class Gateway:
    """A running gateway that serves on `port` and accepts `key`."""

    pid: int
    port: int
    key: str

    def resident_mb(self) -> float:
        """Resident memory of the process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def cpu_s(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@asynccontextmanager
async def running_gateway(tree: Path, engine_port: int, *, limits: bool) -> AsyncIterator[Gateway]:
    """Run the gateway of `tree` in front of an engine on `engine_port`.

    With `limits` the key is in a database and has all four limits.
    """
    command = [sys.executable, "-m", "serval", "gateway", f"--engine-url=http://127.0.0.1:{engine_port}"]
    command += [f"--model={MODEL}", "--served-model-name=m", "--port=0"]
    environment = {**os.environ, "PYTHONPATH": str(tree / "server")}
    with tempfile.TemporaryDirectory(prefix="serval-cost-") as folder, tempfile.TemporaryFile() as log:
        if limits:
            environment |= {"SERVAL_KEY_DATABASE": f"{folder}/keys.db", **_LIMITS}
            key = await asyncio.to_thread(_new_key, environment)
        else:
            key = environment["SERVAL_API_KEY"] = "sk-cost"
        process = subprocess.Popen(command, env=environment, stderr=log)  # noqa: ASYNC220  # starts at once
        try:
            yield Gateway(process.pid, await _listening_port(process, log), key)
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)


def _new_key(environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "serval", "keys", "create", "--name=cost", "--json"]
    made = subprocess.run(command, env=environment, capture_output=True, check=True)
    key: str = json.loads(made.stdout)["key"]
    return key


async def _listening_port(gateway: "subprocess.Popen[bytes]", log: IO[bytes]) -> int:
    """Port in the gateway's line `serving ... on http://127.0.0.1:PORT`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and gateway.poll() is None:
        log.seek(0)
        for line in log.read().decode().splitlines():
            if " on http://" in line:
                return int(line.rpartition(":")[2])
        await asyncio.sleep(0.1)
    log.seek(0)
    raise SystemExit(f"the gateway did not start:\n{log.read().decode()}")


def comparison_parser(description: str | None) -> argparse.ArgumentParser:
    """Parser with the options of a comparison: `--tree` (repeatable), `--rounds` and `--limits`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tree",
        type=lambda given: Path(given).resolve(),
        action="append",
        help="checkout to measure (default: this one)",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limits", action="store_true", help="a key in a database, with all four limits")
    return parser


def compare(
    options: argparse.Namespace,
    measure: Callable[[Path, argparse.Namespace], Coroutine[Any, Any, M]],
    *,
    cost: Callable[[M], float],
    line: Callable[[M], str],
) -> None:
    """Measure the trees of `options` in turn, round after round, and print each result.

    Then print each tree's median `cost` in microseconds and its ratio to the first tree's.
    """
    trees: list[Path] = options.tree or [ROOT]
    found: dict[Path, list[M]] = {tree: [] for tree in trees}
    for number in range(options.rounds):
        for tree in trees:
            result = uvloop.run(measure(tree, options))
            found[tree].append(result)
            print(f"round {number + 1} {tree}: {line(result)}", flush=True)
    medians = [statistics.median(cost(one) for one in found[tree]) for tree in trees]
    for tree, median in zip(trees, medians, strict=True):
        print(f"median {tree}: {median:.1f} us, {medians[0] / median:.2f} x less than the first tree")
