"""Trace of a real engine: single prompts of several lengths, then batches of several sizes."""

import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serval_load.client import Peer, Raw, exchange, prepared


@dataclass(frozen=True)
class Prefill:
    """A single prompt: its tokens, and seconds to its first token."""

    tokens: int
    seconds: float


@dataclass(frozen=True)
class Decode:
    """A batch: number of concurrent requests, and median seconds between two tokens of one request."""

    batch: int
    seconds: float


@dataclass
class Trace:
    """Measurements of one engine, which `source` describes."""

    source: str
    prefills: list[Prefill] = field(default_factory=list)
    decodes: list[Decode] = field(default_factory=list)


def _body(prompt: Sequence[int], tokens: int) -> bytes:
    sampling = {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0}
    return json.dumps({"input_ids": list(prompt), "sampling_params": sampling, "stream": True}).encode()


def token_times(raw: Raw) -> list[tuple[float, int]]:
    """Arrival and total tokens of each event of a `/generate` stream. Raises `RuntimeError`."""
    if not raw.data.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the engine did not answer: {raw.failure} {raw.data[:500]!r}")
    times = []
    for at, piece in raw.pieces:
        for line in piece.split(b"\n"):
            if line.startswith(b"data: {"):
                meta: dict[str, Any] = json.loads(line[6:])["meta_info"]
                times.append((at - raw.sent_at, int(meta["completion_tokens"])))
    return times


async def record(
    peer: Peer,
    *,
    source: str,
    lengths: Sequence[int],
    batches: Sequence[int],
    vocabulary: int,
    tokens: int = 48,
    repeats: int = 5,
    log: Callable[[str], None],
) -> Trace:
    """Measure the engine at `peer`, which must be idle. Prompts are random, so that no cache finds them."""
    source_of_ids = random.Random(time.time_ns())
    trace = Trace(source)

    def prompt(length: int) -> list[int]:
        return [source_of_ids.randrange(300, vocabulary) for _ in range(length)]

    async def ask(length: int, count: int) -> list[tuple[float, int]]:
        request = prepared(peer, _body(prompt(length), count), path="/generate")
        return token_times(await exchange(peer, request))

    await ask(16, 8)
    for length in lengths:
        firsts = [(await ask(length, 1))[0][0] for _ in range(repeats)]
        trace.prefills.append(Prefill(length, statistics.median(firsts)))
        log(f"prompt of {length}: first token after {trace.prefills[-1].seconds * 1e3:.1f} ms")
    for batch in batches:
        # Take the median of several runs, because disturbances of a machine last for seconds.
        gaps = [_gap(await asyncio.gather(*(ask(16, tokens) for _ in range(batch)))) for _ in range(repeats)]
        trace.decodes.append(Decode(batch, statistics.median(gaps)))
        log(f"batch of {batch}: a token every {trace.decodes[-1].seconds * 1e3:.1f} ms")
    return trace


def _gap(answers: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Median time between two tokens while all of `answers` run."""
    # From the latest first token to the earliest last token.
    begin = max(answer[0][0] for answer in answers)
    end = min(answer[-1][0] for answer in answers)
    gaps = []
    for answer in answers:
        inside = [entry for entry in answer if begin <= entry[0] <= end]
        for (earlier, before), (later, after) in itertools.pairwise(inside):
            gaps.append((later - earlier) / max(after - before, 1))
    return statistics.median(gaps)
