"""A gateway process in front of a stand-in process, with requests to both and a check that nothing leaks."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from serval_load.answers import Answer, read_stream
from serval_load.client import Peer, Raw, exchange, get, prepared
from serval_load.compare.measure import request
from serval_load.programs import QUICK, Program, running_gateway, running_stand_in
from serval_load.soak import held_now

KEY = "sk-load-2b71"
_SETTLE_TIMEOUT_S = 60.0


@dataclass
class LoadStack:
    """Both programs and their addresses."""

    gateway: Program
    engine: Program
    peer: Peer
    engine_peer: Peer

    def request(self, *orders: str, tokens: int = 20, stream: bool = True, peer: Peer | None = None) -> bytes:
        """Return a chat request as bytes; `orders` are for the stand-in (`serval_load.stand_in.modelled`)."""
        body = request(tokens=tokens, stream=stream, orders=orders, prompt="What is Serval?")
        return prepared(peer or self.peer, body)

    async def ask(
        self, *orders: str, tokens: int = 20, vanish_after_s: float | None = None, peer: Peer | None = None
    ) -> Answer:
        """Request one streamed answer and read it to the end; `peer`: the gateway with another key."""
        asked = self.request(*orders, tokens=tokens, peer=peer)
        return read_stream(await exchange(self.peer, asked, vanish_after_s=vanish_after_s))

    async def ask_whole(self, *orders: str, tokens: int = 20) -> tuple[int, dict[str, Any]]:
        """Return status and body of one answer that is not streamed."""
        raw = await exchange(self.peer, self.request(*orders, tokens=tokens, stream=False))
        return status_and_body(raw)

    async def many(self, count: int, *, tokens: int) -> list[Answer]:
        """Return the answers of `count` concurrent streams."""
        return list(await asyncio.gather(*(self.ask(tokens=tokens) for _ in range(count))))

    async def served_at_once(self, count: int) -> int:
        """Return how many of `count` concurrent streams the limits admit; all others must get a 429."""
        answers = await self.many(count, tokens=200)
        assert {answer.status for answer in answers} <= {200, 429}, [answer.error for answer in answers]
        return sum(answer.complete for answer in answers)

    async def engine_load(self) -> dict[str, Any]:
        """Return the requests that the stand-in works on, and its counts of outcomes."""
        loads = json.loads(await get(self.engine_peer, "/v1/loads"))
        return {**loads["loads"][0], "counts": loads["stand_in"]}

    async def generating(self, count: int) -> None:
        """Wait until the engine runs `count` requests."""
        async with asyncio.timeout(_SETTLE_TIMEOUT_S):
            while True:
                if (await self.engine_load())["num_running_reqs"] >= count:
                    return
                await asyncio.sleep(0.01)

    async def all_free(self) -> float:
        """Wait until no slot is held in the gateway or the engine; return how many seconds that took.

        Raises `TimeoutError`, listing what is still held.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        held: dict[str, float] = {}
        while loop.time() - started < _SETTLE_TIMEOUT_S:
            held, _ = await held_now(self.peer, self.engine_peer)
            if not held:
                return loop.time() - started
            await asyncio.sleep(0.02)
        raise TimeoutError(f"still held: {held}")


def status_and_body(raw: Raw) -> tuple[int, dict[str, Any]]:
    """Return status and body of a JSON answer; status 0 if none came."""
    head, found, body = raw.data.partition(b"\r\n\r\n")
    if not found:
        return 0, {}
    return int(head.split(b" ", 2)[1]), json.loads(body)


@asynccontextmanager
async def load_stack(
    *gateway_options: str,
    engine_options: Sequence[str] = QUICK,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[LoadStack]:
    """Start both on free ports; `settings` are SERVAL_* variables of the gateway."""
    async with AsyncExitStack() as stack:
        engine, engine_url = await stack.enter_async_context(running_stand_in(*engine_options))
        environment = {"SERVAL_API_KEY": KEY, **(settings or {})}
        started = running_gateway(engine_url, *gateway_options, environment=environment)
        gateway, url = await stack.enter_async_context(started)
        yield LoadStack(gateway, engine, Peer.of(url, KEY), Peer.of(engine_url))
