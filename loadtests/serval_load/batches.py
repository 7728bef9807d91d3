"""Batches on gateways of which one is killed, and the effect of batches on other users' first tokens."""

import asyncio
import json
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from serval_load.answers import read_stream
from serval_load.client import Peer, exchange, get, prepared
from serval_load.programs import Program, process_tree
from serval_load.statistics import percentile

_POLL_S = 0.2
_ENDED = ("completed", "failed", "expired", "cancelled")
_ANSWER_TOKENS = 8
_CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Lines:
    """Lines of a batch, compared with its output and error file."""

    total: int
    completed: int
    failed: int
    # By custom_id: in neither file, and more than once in both together.
    missing: int
    doubled: int
    # As the batch itself counts.
    counted: int

    @property
    def every_line_once(self) -> bool:
        """True if each line was answered, and is in the output once."""
        return self.completed == self.counted == self.total and not self.missing and not self.doubled


@dataclass(frozen=True)
class FirstTokens:
    """First tokens of requests beside batches and without, in milliseconds."""

    requests: int
    p50_without_ms: float
    p50_with_ms: float
    p99_without_ms: float
    p99_with_ms: float
    batch_lines_per_s: float

    @property
    def p99_ratio(self) -> float:
        """The p99 with batches, divided by that without."""
        return self.p99_with_ms / self.p99_without_ms


def input_file(lines: int, *, tokens: int = _ANSWER_TOKENS) -> bytes:
    """The input of a batch of so many lines."""
    return b"".join(
        json.dumps(
            {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": _CHAT,
                "body": {
                    "model": "stand-in",
                    "max_tokens": tokens,
                    "messages": [{"role": "user", "content": f"What is {number} squared?"}],
                },
            }
        ).encode()
        + b"\n"
        for number in range(lines)
    )


async def call(peer: Peer, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """POST `body`, or GET. Raises `OSError` for anything but an answer of status 200."""
    data = b"" if body is None else json.dumps(body).encode()
    raw = await exchange(peer, prepared(peer, data, path=path, method="GET" if body is None else "POST"))
    head, _, content = raw.data.partition(b"\r\n\r\n")
    if b" 200 " not in head[:20]:
        raise OSError(raw.failure or raw.data.decode(errors="replace")[:500])
    answer: dict[str, Any] = json.loads(content)
    return answer


async def start_batch(peer: Peer, content: bytes) -> str:
    """Upload the input and create a batch of it; return its id. Raises `OSError`."""
    boundary = secrets.token_hex(16)
    form = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{boundary}\r\n'
        'Content-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    ).encode()
    form += content + f"\r\n--{boundary}--\r\n".encode()
    form_type = f"Content-Type: multipart/form-data; boundary={boundary}".encode()
    request = prepared(peer, form, path="/v1/files").replace(b"Content-Type: application/json", form_type, 1)
    raw = await exchange(peer, request)
    file = json.loads(raw.data.partition(b"\r\n\r\n")[2] or b"{}")
    if "id" not in file:
        raise OSError(raw.failure or str(file))
    order = {"input_file_id": file["id"], "endpoint": _CHAT, "completion_window": "24h"}
    return str((await call(peer, "/v1/batches", order))["id"])


async def watched(
    peer: Peer, batch_id: str, on_progress: Callable[[float], None] = lambda _: None
) -> dict[str, Any]:
    """Wait until the batch has ended; `on_progress` gets the share of its lines that are done."""
    while True:
        batch = await call(peer, f"/v1/batches/{batch_id}")
        counts = batch["request_counts"]
        if counts["total"]:
            on_progress((counts["completed"] + counts["failed"]) / counts["total"])
        if batch["status"] in _ENDED:
            return batch
        await asyncio.sleep(_POLL_S)


async def compare(peer: Peer, batch: dict[str, Any], total: int) -> Lines:
    """Compare the files of a batch that has ended with its `total` lines."""
    found: dict[str, Counter[str]] = {}
    for kind in ("output", "error"):
        file_id = batch[f"{kind}_file_id"]
        content = b"" if file_id is None else await get(peer, f"/v1/files/{file_id}/content", timeout_s=60)
        found[kind] = Counter(json.loads(line)["custom_id"] for line in content.splitlines())
    both = found["output"] + found["error"]
    expected = {f"line-{number}" for number in range(total)}
    return Lines(
        total=total,
        completed=found["output"].total(),
        failed=found["error"].total(),
        missing=len(expected - both.keys()),
        doubled=sum(number - 1 for number in both.values()),
        counted=batch["request_counts"]["completed"] + batch["request_counts"]["failed"],
    )


async def kill(program: Program) -> None:
    """Kill the program and its processes, as `kill -9` does."""
    for pid in process_tree(program.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(program.process.wait)


async def ask(peer: Peer, *, rate: float, seconds: float, dice: random.Random) -> list[float]:
    """Stream chats that arrive at random, `rate` a second; return the times of their first tokens."""
    tasks: list[asyncio.Task[float | None]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(dice.expovariate(rate))
        tasks.append(asyncio.create_task(_first_token(peer, dice.randint(8, 64))))
    found = await asyncio.gather(*tasks)
    return [first_s for first_s in found if first_s is not None]


async def _first_token(peer: Peer, tokens: int) -> float | None:
    body = {
        "model": "stand-in",
        "messages": [{"role": "user", "content": f"What is Serval? {secrets.token_hex(200)}"}],
        "max_tokens": tokens,
        "stream": True,
    }
    return read_stream(await exchange(peer, prepared(peer, json.dumps(body).encode()))).first_s


async def first_tokens(
    peer: Peer, *, windows: int, seconds: float, rate: float, lines: int, dice: random.Random
) -> FirstTokens:
    """Measure in turn without a batch and with one, each for `seconds`, `windows` times."""
    times: dict[bool, list[float]] = {False: [], True: []}
    run = 0
    for _ in range(windows):
        times[False] += await ask(peer, rate=rate, seconds=seconds, dice=dice)
        async with _batch_beside(peer, lines) as done:
            times[True] += await ask(peer, rate=rate, seconds=seconds, dice=dice)
        run += done[0]
    return FirstTokens(
        requests=sum(map(len, times.values())),
        p50_without_ms=_ms(times[False], 50),
        p50_with_ms=_ms(times[True], 50),
        p99_without_ms=_ms(times[False], 99),
        p99_with_ms=_ms(times[True], 99),
        batch_lines_per_s=round(run / (windows * seconds), 1),
    )


def _ms(times_s: Sequence[float], percent: float) -> float:
    return round(1000 * percentile(times_s, percent), 2)


@asynccontextmanager
async def _batch_beside(peer: Peer, lines: int) -> AsyncIterator[list[int]]:
    """Run a batch while entered; then cancel it. The list then holds how many of its lines were done."""
    batch_id = await start_batch(peer, input_file(lines, tokens=64))
    while (await call(peer, f"/v1/batches/{batch_id}"))["status"] == "validating":  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
    done: list[int] = []
    yield done
    batch = await call(peer, f"/v1/batches/{batch_id}")
    done.append(batch["request_counts"]["completed"])
    with suppress(OSError):  # it has just ended
        await call(peer, f"/v1/batches/{batch_id}/cancel", {})
    await watched(peer, batch_id)
