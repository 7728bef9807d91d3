"""A gateway in front of pairs of stand-in engines, one for prompts and one for answers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from serval_testkit.fleet import RunningFleet, new_engine
from serval_testkit.gateway import running_gateway
from serval_testkit.stand_in_engine import Answer, StandInEngine

BOOTSTRAP_PORT = 9100


@dataclass
class StandInPair:
    """Two engines; `name` is that of the pair in metrics."""

    prefill: StandInEngine
    decode: StandInEngine

    @property
    def url(self) -> str:
        return f"pd+{self.prefill.url}|{self.decode.url}?bootstrap_port={BOOTSTRAP_PORT}"

    @property
    def name(self) -> str:
        return "|".join(engine.url.removeprefix("http://") for engine in (self.prefill, self.decode))

    @property
    def sent(self) -> tuple[int, int]:
        """Requests that each has received."""
        return len(self.prefill.requests), len(self.decode.requests)


def new_pair() -> StandInPair:
    """Return a pair that does not run yet. Its prefill engine answers as SGLang's does: with one token, whose
    finish reason is a length of 0."""
    pair = StandInPair(new_engine(), new_engine())
    pair.prefill.role, pair.decode.role = "prefill", "decode"
    pair.prefill.script = lambda _: Answer(("Hello",), finish={"type": "length", "length": 0})
    return pair


class RunningPairs(RunningFleet):
    """A gateway and its pairs."""

    async def pair_state(self, pair: StandInPair) -> str:
        """Return the state of the pair by the metrics."""
        for line in (await self.metrics()).splitlines():
            if line.startswith(f'serval_place_state{{place="{pair.name}"') and line.endswith(" 1.0"):
                return line.partition('state="')[2].partition('"')[0]
        return "gone"


@asynccontextmanager
async def running_pairs(*pairs: StandInPair, **settings: Any) -> AsyncIterator[RunningPairs]:
    """Serve a gateway in front of the pairs, all of which this starts."""
    async with AsyncExitStack() as stack:
        for pair in pairs:
            for engine in (pair.prefill, pair.decode):
                await stack.enter_async_context(engine.running())
        settings.setdefault("engine_url", ",".join(pair.url for pair in pairs))
        gateway = await stack.enter_async_context(running_gateway(**settings))
        yield RunningPairs(gateway, [engine for pair in pairs for engine in (pair.prefill, pair.decode)])
