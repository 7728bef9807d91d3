"""Starting one engine to measure, sending it requests, and stopping it."""

import json
import math
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

_START_TIMEOUT_S = 1800.0
_STOP_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 1800.0
_GRACE_S = 120.0  # for a request that is under way when the time is over
_LOG_TAIL = 3000
_EXCEPTION = re.compile(r"\s*[\w.]*(Error|Exception|SystemExit)\b.*")
_LONGEST_REASON = 300
_MEMORY_METRICS = ("weight", "kv_cache", "graph")


class ServerFailed(RuntimeError):
    """The engine did not start; the message ends with the end of its log, `reason` is a line of it."""

    def __init__(self, message: str, *, log: str) -> None:
        super().__init__(f"{message}; its log ends with:\n{log[-_LOG_TAIL:]}")
        self.reason = f"{message}: {_last_error(log)}"


def _last_error(log: str) -> str:
    """Return the last line that names an exception, or else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _EXCEPTION.fullmatch(line)]
    return next(iter(errors[-1:] or lines[-1:]), "its log is empty")[:_LONGEST_REASON]


@dataclass(frozen=True)
class Server:
    """A running engine; tokens are drawn from ids 3 to `vocab_size`.

    After `deadline`, seconds of the monotonic clock, nothing is repeated.
    """

    url: str
    vocab_size: int
    random: Random
    deadline: float = math.inf

    def decode_step_s(self, batch: int, *, prompt_tokens: int, steps: int, repeats: int) -> float:
        """Return the median time per decode step of `batch` requests, from runs with and without `steps`."""
        prompts = [self._prompt(prompt_tokens) for _ in range(batch)]
        self._generate_s(prompts, new_tokens=2)  # leaves the prompts in the prefix cache
        added = self._repeated(
            lambda: self._generate_s(prompts, new_tokens=2 + steps) - self._generate_s(prompts, new_tokens=2),
            repeats,
        )
        return statistics.median(added) / steps

    def prefill_s(self, tokens: int, *, repeats: int) -> float:
        """Return the median time in which a new prompt of `tokens` is processed."""
        self._generate_s([self._prompt(tokens)], new_tokens=1)
        taken = self._repeated(lambda: self._generate_s([self._prompt(tokens)], new_tokens=1), repeats)
        return statistics.median(taken)

    def log_probabilities(self, prompts: list[list[int]]) -> list[list[float]]:
        """Return the log-probability of each token after the first, by prompt; all run in one batch."""
        body = {
            "input_ids": prompts,
            "sampling_params": {"temperature": 0, "max_new_tokens": 1, "ignore_eos": True},
            "return_logprob": True,
            "logprob_start_len": 0,
        }
        with self._open("/generate", body) as response:
            answers = json.load(response)
        return [
            [float(token[0]) for token in answer["meta_info"]["input_token_logprobs"][1:]]
            for answer in answers
        ]

    def memory_gb(self) -> dict[str, float]:
        """Return GB of weights, KV cache and CUDA graphs on the devices, as the engine reports them."""
        with self._open("/metrics") as response:
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
        body = {"input_ids": prompts, "sampling_params": sampling}
        begin = time.perf_counter()
        with self._open("/generate", body) as response:
            answers = json.load(response)
        taken = time.perf_counter() - begin
        counts = {answer["meta_info"]["completion_tokens"] for answer in answers}
        if counts != {new_tokens}:
            raise RuntimeError(f"the engine answered with {counts} tokens instead of {new_tokens}.")
        return taken

    def _repeated(self, measure: Callable[[], float], repeats: int) -> list[float]:
        taken = [measure()]
        while len(taken) < repeats and time.monotonic() < self.deadline:
            taken.append(measure())
        return taken

    def _open(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        left = max(0.0, self.deadline - time.monotonic()) + _GRACE_S
        data = None if body is None else json.dumps(body).encode()
        return _open(f"{self.url}{path}", data, timeout_s=min(_REQUEST_TIMEOUT_S, left))


@contextmanager
def running_server(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    vocab_size: int,
    log: Path,
    deadline: float = math.inf,
) -> Iterator[Server]:
    """Run an engine with random weights on a free loopback port.

    Raises `ServerFailed` if it ends or is not healthy in time, at the latest at `deadline` (`Server`).
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
    server = Server(f"http://127.0.0.1:{port}", vocab_size, Random(0), deadline)
    try:
        _wait_until_healthy(server, process, log)
        yield server
    finally:
        _stop(process)


def _wait_until_healthy(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = min(time.monotonic() + _START_TIMEOUT_S, server.deadline)
    while process.poll() is None and time.monotonic() < deadline:
        with (
            suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            _open(f"{server.url}/health", timeout_s=_GRACE_S),
        ):
            return
        time.sleep(0.5)
    ended = process.poll() is not None
    raise ServerFailed(
        f"the engine ended with exit code {process.returncode}"
        if ended
        else "the engine was not healthy in time",
        log=log.read_text(encoding="utf-8", errors="replace"),
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the engine and its children, which have a process group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)


def _open(url: str, data: bytes | None = None, *, timeout_s: float) -> Any:
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
    return urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310
