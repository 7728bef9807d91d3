"""Other users during the abuse, in a process of their own: streams, ordinary prompts, a liveness probe."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from serval_load.abuse.mix import MODEL
from serval_load.client import Peer, Raw, exchange, prepared

STREAMS = 8
_PROBE_EVERY_S = 0.05
_PROMPT_EVERY_S = 0.5
_LONGEST_WAIT_S = 120.0


@dataclass(frozen=True)
class Noticed:
    """Longest waits in seconds, and numbers of requests that were answered and lost."""

    health_s: float
    # The same at a server beside the gateway, the engine stand-in: the wait that the machine alone causes.
    beside_s: float
    prompt_s: float
    prompts: int
    prompts_lost: int
    streams: int
    streams_lost: int


def bystanders(peer: Peer, engine: Peer, pipe: Connection) -> None:
    """Run until something arrives on `pipe`, then send what was `Noticed`. Sends True when it has begun."""
    pipe.send(True)
    pipe.send(uvloop.run(_watch(peer, engine, pipe)))


async def _watch(peer: Peer, engine: Peer, pipe: Connection) -> Noticed:
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), over.set)
    health: list[float] = []
    beside: list[float] = []
    prompts: list[tuple[float, bool]] = []
    streams: list[bool] = []

    async def probe(server: Peer, path: str, waits: list[float]) -> None:
        raw, took_s = await _ask(server, prepared(server, b"", path=path, method="GET"))
        waits.append(took_s if _is_ok(raw) else _LONGEST_WAIT_S)
        await asyncio.sleep(_PROBE_EVERY_S)

    async def prompt() -> None:
        raw, took_s = await _ask(peer, _body(peer, "hello there. " * 1500, stream=False, max_tokens=2))
        prompts.append((took_s, _is_ok(raw)))
        await asyncio.sleep(_PROMPT_EVERY_S)

    async def stream() -> None:
        raw, _ = await _ask(peer, _body(peer, "Tell me a story.", stream=True, max_tokens=400))
        streams.append(_is_ok(raw) and b"data: [DONE]" in raw.data)
        await asyncio.sleep(0.05)

    await asyncio.gather(
        _until(over, partial(probe, peer, "/healthz", health)),
        _until(over, partial(probe, engine, "/ready", beside)),
        _until(over, prompt),
        *(_until(over, stream) for _ in range(STREAMS)),
    )
    return Noticed(
        health_s=max(health),
        beside_s=max(beside),
        prompt_s=max(took_s for took_s, _ in prompts),
        prompts=len(prompts),
        prompts_lost=sum(not ok for _, ok in prompts),
        streams=len(streams),
        streams_lost=streams.count(False),
    )


async def _until(over: asyncio.Event, once: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while not over.is_set():
        await once()


async def _ask(peer: Peer, request: bytes) -> tuple[Raw, float]:
    started = time.monotonic()
    raw = await exchange(peer, request, vanish_after_s=_LONGEST_WAIT_S)
    return raw, time.monotonic() - started


def _is_ok(raw: Raw) -> bool:
    return raw.data.startswith(b"HTTP/1.1 200") and not raw.failure


def _body(peer: Peer, content: str, **fields: Any) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
    return prepared(peer, json.dumps(body).encode())
