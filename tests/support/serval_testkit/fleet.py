"""A gateway in front of several stand-in engines."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.stand_in_engine import StandInEngine


def new_engine(**options: Any) -> StandInEngine:
    """Return an engine that does not run yet."""
    return StandInEngine(model_path=str(DEMO_CHECKPOINT), **options)


def chat(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    """Return the body of a request that asks `text`."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # a condition of another object's state
            await asyncio.sleep(0.01)


@dataclass
class RunningFleet:
    """A gateway and its engines."""

    gateway: RunningGateway
    engines: list[StandInEngine]

    async def ask(self, text: str = "Hi", **fields: Any) -> int:
        """Ask, and return the status."""
        return (await self.gateway.post(chat(text, **fields))).status

    async def engine_of(self, text: str) -> StandInEngine:
        """Ask, and return the engine that received the request."""
        before = [len(engine.requests) for engine in self.engines]
        assert await self.ask(text) == 200
        (engine,) = (
            engine
            for engine, number in zip(self.engines, before, strict=True)
            if len(engine.requests) > number
        )
        return engine

    async def text_of(self, engine: StandInEngine, *, then: str = "") -> str:
        """Return a question whose home is the engine, and which ends with `then`."""
        for number in range(1000):
            text = f"Question {number}{then}"
            if await self.engine_of(text) is engine:
                return text
        raise AssertionError("no question goes there")

    async def state(self, engine: StandInEngine) -> str:
        """Return the state of the engine by the metrics."""
        name = engine.url.removeprefix("http://")
        for line in (await self.metrics()).splitlines():
            if line.startswith(f'serval_place_state{{place="{name}"') and line.endswith(" 1.0"):
                return line.partition('state="')[2].partition('"')[0]
        return "gone"

    async def reaches(self, engine: StandInEngine, state: str) -> None:
        """Wait until the engine is in the state."""
        async with asyncio.timeout(60):
            while await self.state(engine) != state:  # noqa: ASYNC110  # told by a page
                await asyncio.sleep(0.02)

    async def metrics(self) -> str:
        """Return the page of metrics."""
        return await (await self.gateway.get("/metrics", key=None)).text()

    async def is_ready(self) -> bool:
        """Return True if the gateway says that it is ready."""
        return (await self.gateway.get("/readyz", key=None)).status == 200


@asynccontextmanager
async def running_fleet(
    *engines: StandInEngine, as_range: bool = False, options: Sequence[str] = (), **settings: Any
) -> AsyncIterator[RunningFleet]:
    """Serve a gateway in front of the engines, all of which this starts; by default two.

    `as_range`: the URL of a single engine is written as a range, which makes it a fleet. `options` are those
    of the engines in the list.
    """
    members = list(engines) or [new_engine(), new_engine()]
    async with AsyncExitStack() as stack:
        for engine in members:
            await stack.enter_async_context(engine.running())
        listed = zip_longest((engine.url for engine in members), options, fillvalue="")
        urls = ",".join(map("".join, listed))
        settings["engine_url"] = urls.replace("127.0.0.1", "127.0.0.{1..1}") if as_range else urls
        gateway = await stack.enter_async_context(running_gateway(**settings))
        yield RunningFleet(gateway, members)
