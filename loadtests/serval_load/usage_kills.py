"""Load on gateways that are killed, and the difference between their usage and what clients received.

Each client has a key of its own, so that what one key's ledger has too much cannot hide what another's lacks.
"""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from serval.caller.identity import TEAM
from serval.usage.verification import Comparison
from serval_load.answers import read_stream
from serval_load.client import Peer, exchange, prepared
from serval_load.programs import process_tree, running_gateway

_PAUSE_S = 0.05
_LONGEST_ANSWER = 60


@dataclass
class Received:
    """Requests and tokens of one client's whole answers; and of those that a kill may have cut off.

    An answer that was cut off may or may not be counted: the process may have been killed between counting
    and sending.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut_requests: int = 0
    # The longest answers that those requests may have had; their prompts are all of one length.
    cut_completion_tokens: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Books:
    """The verification of `serval usage verify` after the experiment, and the engine's own count."""

    # Sums by key or team, day and unit.
    sums: int
    agree: int
    # Differences, in tokens, within what unsettled reservations hold; and all others, without sign.
    held: int
    differ: int
    # Tokens that reservations hold which kills ended, counted under the key.
    held_by_kills: int
    usage_tokens: int
    # Tokens of requests that the engine finished, and of those whose gateway was killed before.
    engine_finished_tokens: int
    engine_cut_tokens: int


def books(comparisons: Sequence[Comparison], usage_tokens: int, engine: Mapping[str, int]) -> Books:
    """Sum up the verification; `engine` has the stand-in's tokens by kind and outcome."""
    tokens = [each for each in comparisons if each.unit == "tokens"]
    return Books(
        sums=len(comparisons),
        agree=sum(each.verdict == "agrees" for each in comparisons),
        held=sum(each.difference for each in tokens if each.verdict == "held"),
        differ=sum(abs(each.difference) for each in tokens if each.verdict == "differs"),
        held_by_kills=sum(each.held for each in tokens if not each.subject.startswith(TEAM)),
        usage_tokens=usage_tokens,
        engine_finished_tokens=sum(count for name, count in engine.items() if name.endswith("finished")),
        engine_cut_tokens=sum(count for name, count in engine.items() if not name.endswith("finished")),
    )


@dataclass(frozen=True)
class Difference:
    """Difference between the ledger and the whole answers, summed over keys without sign."""

    answers: int
    tokens: int
    cut_requests: int
    # Whole answers that are not in the ledger. Nothing excuses these.
    missing_requests: int
    missing_tokens: int
    # In the ledger beside the whole answers, and how many of those no answer that was cut off explains.
    extra_requests: int
    extra_tokens: int
    unexplained_requests: int
    unexplained_tokens: int

    @property
    def is_within_bound(self) -> bool:
        """True if everything that was answered is counted, once."""
        return not (
            self.missing_requests
            or self.missing_tokens
            or self.unexplained_requests
            or self.unexplained_tokens
        )


def difference(received: Mapping[str, Received], ledger: Mapping[str, Sequence[int]]) -> Difference:
    """Compare by key; `ledger` has requests, prompt and completion tokens that the gateways counted."""
    answers = tokens = cut = 0
    missing = [0, 0]
    extra = [0, 0]
    unexplained = [0, 0]
    for key, one in received.items():
        requests, prompt, completion = ledger.get(key, (0, 0, 0))
        whole = one.prompt_tokens + one.completion_tokens
        answers, tokens, cut = answers + one.requests, tokens + whole, cut + one.cut_requests
        prompt_length = -(-one.prompt_tokens // max(one.requests, 1))
        may_be = (one.cut_requests, one.cut_requests * prompt_length + one.cut_completion_tokens)
        for index, (counted, expected) in enumerate(((requests, one.requests), (prompt + completion, whole))):
            missing[index] += max(0, expected - counted)
            extra[index] += max(0, counted - expected)
            unexplained[index] += max(0, counted - expected - may_be[index])
    return Difference(answers, tokens, cut, *missing, *extra, *unexplained)


async def use(peers: Sequence[Peer], stop: asyncio.Event, received: Received, dice: random.Random) -> None:
    """Ask one gateway after the other, one request at a time, until `stop`."""
    while not stop.is_set():
        tokens = dice.randint(1, _LONGEST_ANSWER)
        body: dict[str, Any] = {
            "model": "stand-in",
            "messages": [{"role": "user", "content": "What is Serval?"}],
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        peer = dice.choice(peers)
        answer = read_stream(await exchange(peer, prepared(peer, json.dumps(body).encode())))
        if answer.complete:
            received.requests += 1
            received.prompt_tokens += answer.prompt_tokens
            received.completion_tokens += answer.completion_tokens
        elif answer.error.startswith("ConnectionRefusedError"):
            await asyncio.sleep(_PAUSE_S)
        elif answer.status in {0, 200}:
            received.cut_requests += 1
            received.cut_completion_tokens += tokens
            await asyncio.sleep(_PAUSE_S)
        else:
            received.refused += 1
            await asyncio.sleep(_PAUSE_S)


@asynccontextmanager
async def killed_gateway(
    engine_url: str,
    port: int,
    environment: Mapping[str, str],
    *,
    workers: int,
    every_s: float,
    dice: random.Random,
    log: Callable[[str], None],
) -> AsyncIterator[None]:
    """Run a gateway while entered, and kill a worker or all of its processes about every `every_s` seconds.

    The last one is ended by SIGTERM.
    """
    stop = asyncio.Event()
    serving = asyncio.Event()

    async def keep() -> None:
        while not stop.is_set():
            options = (f"--workers={workers}", f"--port={port}")
            async with running_gateway(engine_url, *options, environment=environment) as (program, _):
                serving.set()
                while program.process.poll() is None and not stop.is_set():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), every_s * dice.uniform(0.5, 1.5))
                        break
                    parent, *children = process_tree(program.pid)
                    everything = dice.random() < 0.5 or not children
                    victims = [parent, *children] if everything else [dice.choice(children)]
                    log(f"kill -9 of {len(victims)} of {1 + len(children)} processes on port {port}")
                    for victim in victims:
                        with suppress(ProcessLookupError):
                            os.kill(victim, signal.SIGKILL)
                    if parent in victims:
                        await asyncio.to_thread(program.process.wait)

    keeping = asyncio.create_task(keep())
    try:
        await asyncio.wait({keeping, asyncio.create_task(serving.wait())}, return_when="FIRST_COMPLETED")
        yield
    finally:
        stop.set()
        await keeping
