"""Agents whose prompts grow, and the share of their tokens that is found with several layouts."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

from serval_load.fleet.clients import Conversation, PeerOf, any_gateway
from serval_load.fleet.finding import Finding
from serval_load.fleet.measured import COLUMNS, Measured, measure
from serval_load.fleet.stack import Engine, Fleet, running_engines, running_gateways
from serval_load.workloads.arrivals import poisson
from serval_load.workloads.sessions import LastAnswer, Turn, agent

# Tokens of a quarter of the usual agent's, for engines of a quarter of the speed.
FIRST, LAST, TURNS, ANSWER = 1024, 16_384, 8, 40
# Options that make a stand-in four times as large, after those of the small ones.
FOUR_TIMES = ("--prefill-token-s=0.00005", "--decode-request-s=0.000025", "--kv-tokens=1000000")


@dataclass(frozen=True)
class Layout:
    """Options of `running_gateways`, and the choice of a gateway for each request."""

    options: dict[str, Any]
    peer_of: Callable[[Fleet], PeerOf]


def _in_turn(fleet: Fleet) -> PeerOf:
    turns = count()
    return lambda key, _: fleet.peer(key, gateway=next(turns))


def _by_client(fleet: Fleet) -> PeerOf:
    clients = random.Random(0)
    addresses = defaultdict[int, int](lambda: clients.randrange(1 << 16))
    return lambda key, number: fleet.peer(key, gateway=addresses[number])


def agents(*, per_s: float, seconds: float, seed: int, texts: int) -> list[Conversation]:
    """Agents that begin at times of `seed`; runs with different `texts` have no prompt in common."""
    source = random.Random(seed)
    found = []
    for number, at in enumerate(poisson(source, per_s=per_s, seconds=seconds)):
        text = random.Random((seed << 20) + (texts << 10) + number)
        found.append(Conversation(at, 0, partial(_turns, text)))
    return found


def _turns(source: random.Random, previous: LastAnswer) -> Iterator[Turn]:
    for turn in agent(source, previous, first=FIRST, last=LAST, turns=TURNS):
        yield replace(turn, body={**turn.body, "max_tokens": ANSWER})


async def compare_layouts(*, per_s: float, seconds: float, seed: int, options: tuple[str, ...]) -> Finding:
    """Compare three gateways over four engines with one engine of four times the speed and cache.

    The other rows are four gateways with an engine each, whose clients are sent to them in turn or by their
    address. `options` are those of the four stand-ins, whose cache holds 250,000 tokens.
    """
    finding = Finding(("", *COLUMNS))

    async def run(name: str, number: int, engines: list[Engine], layout: Layout) -> Measured:
        async with running_gateways(engines, **layout.options) as fleet:
            conversations = agents(per_s=per_s, seconds=seconds, seed=seed, texts=number)
            peer_of = layout.peer_of(fleet)
            found = await measure(conversations, peer_of, engines=engines, gateways=fleet.gateways)
        finding.rows.append([name, *found.cells()])
        finding.expect(not found.incomplete, f"{name}: {found.incomplete} requests failed")
        return found

    async with running_engines(1, *options, *FOUR_TIMES) as engines:
        best = await run("one engine, four times as large", 0, engines, Layout({"gateways": 1}, any_gateway))
    async with running_engines(4, *options) as engines:
        chosen = await run("3 gateways over 4 engines", 1, engines, Layout({}, any_gateway))
        blind = await run(
            "4 gateways in turn, an engine each", 2, engines, Layout({"one_each": True}, _in_turn)
        )
        await run("the same by client address", 3, engines, Layout({"one_each": True}, _by_client))
    share = chosen.found / best.found
    finding.expect(share >= 0.9, f"found {share:.0%} of what one engine would have")
    finding.expect(chosen.found > blind.found, "found no more than gateways in turn")
    return finding
