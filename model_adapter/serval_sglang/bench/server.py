"""Starting one engine to measure, sending it requests, and stopping it."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

_START_TIMEOUT_S = 1800.0
_STOP_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 1800.0
_LOG_TAIL = 3000
_MEMORY_METRICS = ("weight", "kv_cache", "graph")


class ServerFailed(RuntimeError):
    """The engine did not start; the message ends with the end of its log."""


@dataclass(frozen=True)
class Server:
    """A running engine; tokens are drawn from ids 3 to `vocab_size`."""

    url: str
    vocab_size: int
    random: Random

    def decode_step_s(self, batch: int, *, prompt_tokens: int, steps: int, repeats: int) -> float:
        """Return the median time per decode step of `batch` requests, from runs with and without `steps`."""
        prompts = [self._prompt(prompt_tokens) for _ in range(batch)]
        self._generate_s(prompts, new_tokens=2)  # leaves the prompts in the prefix cache
        added = [
            self._generate_s(prompts, new_tokens=2 + steps) - self._generate_s(prompts, new_tokens=2)
            for _ in range(repeats)
        ]
        return statistics.median(added) / steps

    def prefill_tokens_per_s(self, tokens: int, *, repeats: int) -> float:
        """Return the median rate at which new prompts of `tokens` are processed."""
        self._generate_s([self._prompt(tokens)], new_tokens=1)
        taken = [self._generate_s([self._prompt(tokens)], new_tokens=1) for _ in range(repeats)]
        return tokens / statistics.median(taken)

    def memory_gb(self) -> dict[str, float]:
        """Return GB of weights, KV cache and CUDA graphs on the devices, as the engine reports them."""
        with _open(f"{self.url}/metrics") as response:
            lines = response.read().decode().splitlines()
        found = dict.fromkeys(_MEMORY_METRICS, 0.0)
        for line in lines:
            for part in _MEMORY_METRICS:
                if line.startswith(f"sglang:{part}_memory_usage_gb"):
                    found[part] += float(line.rsplit(" ", 1)[1])
        return found

    def _prompt(self, tokens: int) -> list[int]:
        return [self.random.randrange(3, self.vocab_size) for _ in range(tokens)]

    def _generate_s(self, prompts: list[list[int]], *, new_tokens: int) -> float:
        sampling = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
        body = json.dumps({"input_ids": prompts, "sampling_params": sampling}).encode()
        begin = time.perf_counter()
        with _open(f"{self.url}/generate", body) as response:
            answers = json.load(response)
        taken = time.perf_counter() - begin
        counts = {answer["meta_info"]["completion_tokens"] for answer in answers}
        if counts != {new_tokens}:
            raise RuntimeError(f"the engine answered with {counts} tokens instead of {new_tokens}.")
        return taken


@contextmanager
def running_server(
    arguments: Sequence[str], environment: Mapping[str, str], *, vocab_size: int, log: Path
) -> Iterator[Server]:
    """Run an engine with random weights on a free loopback port.

    Raises `ServerFailed` if it ends or is not healthy in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "serval_sglang.bench.random_engine",
        *arguments,
        f"--port={port}",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", vocab_size, Random(0))
    try:
        _wait_until_healthy(server, process, log)
        yield server
    finally:
        _stop(process)


def _wait_until_healthy(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with (
            suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            _open(f"{server.url}/health"),
        ):
            return
        time.sleep(0.5)
    tail = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
    raise ServerFailed(f"the engine ended or was not healthy in time; its log ends with:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the engine and its children, which have a process group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)


def _open(url: str, data: bytes | None = None) -> Any:
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
    return urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S)  # noqa: S310
