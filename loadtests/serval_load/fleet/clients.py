"""Clients of a fleet: conversations that begin at given times, each request at any of the gateways."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from serval_load.answers import Answer, read_stream
from serval_load.client import Peer, exchange, prepared
from serval_load.fleet.stack import Fleet
from serval_load.statistics import percentile
from serval_load.workloads.sessions import LastAnswer, Turn, words

_REFUSED = (429, 503)


@dataclass(frozen=True)
class Asked:
    """A request of the key number `key`, and its answer. `at` is in seconds after the start."""

    key: int
    at: float
    answer: Answer


Turns = Callable[[LastAnswer], Iterator[Turn]]


@dataclass(frozen=True)
class Conversation:
    """A conversation that begins at `at`; `turns` makes its requests from the answer before."""

    at: float
    key: int
    turns: Turns


# Returns the server for a request of a conversation, by its key and its number.
PeerOf = Callable[[int, int], Peer]


def any_gateway(fleet: Fleet) -> PeerOf:
    """Send each request to any of the gateways."""
    return lambda key, _: fleet.peer(key)


def body_of(turn: Mapping[str, Any]) -> bytes:
    """Body of a streamed request."""
    return json.dumps(
        {"model": "stand-in", "stream": True, "stream_options": {"include_usage": True}, **turn}
    ).encode()


async def ask(peer: Peer, turn: Mapping[str, Any], *, vanish_after_s: float | None = None) -> Answer:
    """Ask for a streamed answer."""
    raw = await exchange(peer, prepared(peer, body_of(turn)), vanish_after_s=vanish_after_s)
    return read_stream(raw)


async def hold(conversations: Sequence[Conversation], peer_of: PeerOf) -> list[Asked]:
    """Begin each conversation at its time, however slow the servers are, and wait for all to end."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    found: list[Asked] = []

    async def run(number: int, one: Conversation) -> None:
        await asyncio.sleep(one.at)
        previous = LastAnswer()
        for turn in one.turns(previous):
            await asyncio.sleep(turn.pause_s)
            at = loop.time() - started
            answer = await ask(peer_of(one.key, number), turn.body)
            found.append(Asked(one.key, at, answer))
            previous.calls = answer.calls
            if not answer.complete:
                return

    async with asyncio.TaskGroup() as group:
        for number, one in enumerate(conversations):
            group.create_task(run(number, one))
    return found


@asynccontextmanager
async def steady_load(peer_of: Callable[[], Peer], *, per_s: float, seed: int) -> AsyncIterator[list[Asked]]:
    """Ask short questions at a steady rate, until left; then wait for their answers."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    found: list[Asked] = []
    source = random.Random(seed)

    async def one() -> None:
        at = loop.time() - started
        text = words(source, 30)
        turn = {"messages": [{"role": "user", "content": text}], "max_tokens": 20}
        found.append(Asked(0, at, await ask(peer_of(), turn)))

    async def arrive(group: asyncio.TaskGroup) -> None:
        while True:
            group.create_task(one())
            await asyncio.sleep(source.expovariate(per_s))

    async with asyncio.TaskGroup() as group:
        arriving = group.create_task(arrive(group))
        try:
            yield found
        finally:
            arriving.cancel()


def first_tokens(asked: Iterable[Asked], percent: float) -> float:
    """Percentile of the seconds to the first token."""
    return percentile([one.answer.first_s for one in asked if one.answer.first_s is not None], percent)


def refused(asked: Iterable[Asked]) -> list[Asked]:
    """Return those that were refused for want of room."""
    return [one for one in asked if one.answer.status in _REFUSED]


def broken(asked: Iterable[Asked]) -> list[Asked]:
    """Return those whose answer began and did not end."""
    return [one for one in asked if one.answer.status == 200 and not one.answer.complete]


def failed(asked: Iterable[Asked]) -> list[Asked]:
    """Return those that never got an answer."""
    return [one for one in asked if one.answer.status != 200]


def question(
    source: random.Random, system: str, previous: LastAnswer, *, tokens: int, answer: int
) -> Iterator[Turn]:
    """Yield a single question behind a system prompt."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": words(source, tokens)}]
    yield Turn({"messages": messages, "max_tokens": answer})
