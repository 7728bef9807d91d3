"""A key with half of all requests, all of which share its system prompt: no engine becomes the bottleneck."""

import random
from functools import partial

from serval_load.fleet.clients import Conversation, any_gateway, first_tokens, question
from serval_load.fleet.finding import Finding
from serval_load.fleet.measured import COLUMNS, Measured, measure
from serval_load.fleet.stack import Fleet
from serval_load.workloads.arrivals import poisson
from serval_load.workloads.sessions import words

HOT = 0


def questions(
    *, per_s: float, seconds: float, keys: int, hot: float, system: int, asked: int, answer: int, seed: int
) -> list[Conversation]:
    """Single questions behind the system prompt of their key; the first key has the share `hot` of them."""
    source = random.Random(seed)
    systems = [words(source, system) for _ in range(keys)]
    found = []
    for at in poisson(source, per_s=per_s, seconds=seconds):
        key = HOT if source.random() < hot else source.randrange(1, keys)
        text = random.Random(source.random())
        turns = partial(question, text, systems[key], tokens=asked, answer=answer)
        found.append(Conversation(at, key, turns))
    return found


async def compare_keys(
    fleet: Fleet, *, per_s: float, seconds: float, system: int, asked: int, answer: int, seed: int
) -> Finding:
    """Ask with a hot key, and as often with keys that have equal shares."""
    keys = len(fleet.keys)
    finding = Finding(("", *COLUMNS, "p99 without the first key, s"))
    runs: list[Measured] = []
    for number, (name, hot) in enumerate((("equal keys", 1 / keys), ("half with one key", 0.5))):
        conversations = questions(
            per_s=per_s, seconds=seconds, keys=keys, hot=hot, system=system, asked=asked, answer=answer,
            seed=seed + number,
        )  # fmt: skip
        run = await measure(conversations, any_gateway(fleet), engines=fleet.engines, gateways=fleet.gateways)
        runs.append(run)
        finding.rows.append([name, *run.cells(), f"{_others(run):.2f}"])
        finding.expect(not run.incomplete, f"{name}: {run.incomplete} requests failed")
    finding.expect(runs[1].busiest <= 1.3, f"the busiest engine computed {runs[1].busiest:.2f} of the mean")
    slower = _others(runs[1]) / _others(runs[0])
    finding.expect(slower <= 1.25, f"the other keys' p99 is {slower:.2f} times as long")
    return finding


def _others(run: Measured) -> float:
    return first_tokens([one for one in run.asked if one.key != HOT], 99)
