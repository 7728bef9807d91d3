"""Comparison of the usage with the budgets' counts, and with what the engines counted.

Each part is counted by itself, for its own purpose, and all must agree:

usage      what ended, by the edge, in the key database
budgets    what was settled, by the ledger of limits, in Redis or in the key database; and what reservations
           hold that were not settled, because their requests run or because a kill ended them
engines    tokens of requests that ended there, since the engine's start

The usage of a day may exceed what was settled by what is held at most: a request that was counted, and whose
process was killed before the ledger learned of it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct
from sqlalchemy import Row

from serval.caller.budgets import UNITS, Unit, Used
from serval.caller.identity import TEAM
from serval.store.usage import UsageTable

_DAY_HOURS: Final = 24
_NOTHING: Final = Used()
# Most rows of usage that are read for a comparison.
_MOST_ROWS: Final = 1_000_000
_COUNTER: Final = re.compile(r"sglang:(prompt|generation)_tokens_total(?:\{[^}]*\})? ([-+.e\d]+)")

Verdict = Literal["agrees", "held", "differs"]
# Tokens and their cost by subject and day, counted from 1970.
Sums = Mapping[tuple[str, int], tuple[int, int]]


class Comparison(NamedTuple):
    """One sum: of the tokens or the cost of a key or a team on a day, counted from 1970."""

    subject: str
    day: int
    unit: Unit
    usage: int
    # The budgets' count without what is held.
    settled: int
    held: int

    @property
    def difference(self) -> int:
        """The usage less what the budgets count."""
        return self.usage - self.settled

    @property
    def verdict(self) -> Verdict:
        """`held`: the difference is not more than unsettled reservations hold."""
        if self.difference == 0:
            return "agrees"
        return "held" if 0 < self.difference <= self.held else "differs"


def usage_by_day(table: UsageTable, first: int, end: int) -> dict[tuple[str, int], tuple[int, int]]:
    """Tokens and cost of all keys and teams from day `first` until before day `end`, by subject and day.

    Raises SQLAlchemy's errors.
    """
    sums = {}
    hours = first * _DAY_HOURS, end * _DAY_HOURS
    for row in table.sums(("key", "day"), first=hours[0], end=hours[1], most=_MOST_ROWS):
        sums[row.key, row.day // _DAY_HOURS] = _amounts(row)
    for row in table.sums(("team", "day"), first=hours[0], end=hours[1], most=_MOST_ROWS):
        if row.team is not None:
            sums[TEAM + row.team, row.day // _DAY_HOURS] = _amounts(row)
    return sums


def compared(
    usage: Sums, counted: Mapping[tuple[str, int], Used], budgeted: Iterable[str]
) -> list[Comparison]:
    """Compare all sums that budgets count: those with a count, and the usage of subjects with a budget."""
    now_budgeted = frozenset(budgeted)
    places = set(counted) | {place for place in usage if place[0] in now_budgeted}
    found = []
    for subject, day in sorted(places):
        used = counted.get((subject, day), _NOTHING)
        tokens, cost = usage.get((subject, day), (0, 0))
        by_unit = {
            "tokens": (tokens, used.tokens - used.held_tokens, used.held_tokens),
            "cost": (cost, used.cost - used.held_cost, used.held_cost),
        }
        found += [Comparison(subject, day, unit, *by_unit[unit]) for unit in UNITS]
    return found


class Tokens(Struct, frozen=True):
    """Tokens of prompts and completions."""

    prompt: int = 0
    completion: int = 0


class Snapshot(Struct, frozen=True):
    """The usage of all keys, and the counters of the engines by URL, at one time (Unix time)."""

    at: float
    usage: Tokens
    engines: dict[str, Tokens]


class EngineComparison(NamedTuple):
    """Growth of the usage and of the engines' counters between two snapshots."""

    usage: Tokens
    engines: Tokens
    # URLs of engines whose counters began anew: their counts before are lost.
    restarted: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """True if all tokens are the same."""
        return self.usage == self.engines and not self.restarted


def usage_totals(table: UsageTable) -> Tokens:
    """All tokens of the usage that is kept. Raises SQLAlchemy's errors."""
    (row,) = table.sums((), first=0, end=10**7, most=2)
    return Tokens(int(row.prompt_tokens), int(row.completion_tokens))


def engine_tokens(metrics: str) -> Tokens:
    """The counters of one engine, of the text of its `/metrics`."""
    sums: Counter[str] = Counter()
    for line in metrics.splitlines():
        if match := _COUNTER.match(line):
            sums[match[1]] += int(float(match[2]))
    return Tokens(sums["prompt"], sums["generation"])


def compared_engines(before: Snapshot, after: Snapshot) -> EngineComparison:
    """The growth between the snapshots. An engine that is new in `after` has begun at nothing."""
    prompt = completion = 0
    restarted = []
    for url, tokens in after.engines.items():
        old = before.engines.get(url, Tokens())
        if tokens.prompt < old.prompt or tokens.completion < old.completion:
            restarted.append(url)
            old = Tokens()
        prompt += tokens.prompt - old.prompt
        completion += tokens.completion - old.completion
    restarted += [url for url in before.engines if url not in after.engines]
    grown = Tokens(after.usage.prompt - before.usage.prompt, after.usage.completion - before.usage.completion)
    return EngineComparison(grown, Tokens(prompt, completion), tuple(sorted(restarted)))


def _amounts(row: Row[Any]) -> tuple[int, int]:
    # PostgreSQL's sums are decimals.
    return int(row.prompt_tokens) + int(row.completion_tokens), int(row.cost)
