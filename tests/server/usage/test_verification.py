"""Comparison of usage, budgets and engines: every kind of difference is named."""

import pytest

from serval.caller.budgets import Used
from serval.store.database import open_database
from serval.store.key_store import KeyStore
from serval.store.teams import TeamStore
from serval.store.usage import Slot, UsageTable
from serval.usage.verification import (
    Snapshot,
    Tokens,
    compared,
    compared_engines,
    engine_tokens,
    usage_by_day,
    usage_totals,
)

DAY = 20_000


@pytest.mark.parametrize(
    ("usage", "used", "verdicts"),
    [
        ((15, 150), Used(15, 150), ["agrees", "agrees"]),
        ((15, 150), Used(75, 750, 60, 600), ["agrees", "agrees"]),
        # Killed between counting and settling.
        ((25, 250), Used(75, 750, 60, 600), ["held", "held"]),
        ((75, 751), Used(75, 750, 60, 600), ["held", "differs"]),
        ((76, 750), Used(75, 750, 60, 600), ["differs", "held"]),
        # Settled, and not in the books.
        ((14, 149), Used(15, 150), ["differs", "differs"]),
        ((16, 151), Used(15, 150), ["differs", "differs"]),
        ((15, 150), None, ["differs", "differs"]),
    ],
)
def test_compared_names_a_difference(usage: tuple[int, int], used: Used | None, verdicts: list[str]) -> None:
    counted = {} if used is None else {("a", DAY): used}
    found = compared({("a", DAY): usage, ("without a budget", DAY): (5, 5)}, counted, ["a"])
    assert [each.verdict for each in found] == verdicts
    assert {each.subject for each in found} == {"a"}


def test_compared_finds_a_count_without_usage() -> None:
    found = compared({}, {("a", DAY): Used(5, 0)}, [])
    assert [(each.difference, each.verdict) for each in found] == [(-5, "differs"), (0, "agrees")]


def test_usage_by_day_sums_keys_and_teams(key_database: str) -> None:
    engine = open_database(key_database)
    team = TeamStore(engine).create(name="t")
    keys = [KeyStore(engine).create(name=name, scopes=["inference"], team=team.id)[0].id for name in "ab"]
    table = UsageTable(engine)
    rows = {Slot(key, "m", DAY * 24 + hour): (1, 10, 4, 5, 0, 0, 7) for key in keys for hour in (0, 23)}
    rows[Slot(keys[0], "m", DAY * 24 + 24)] = (1, 1, 0, 0, 0, 0, 0)
    table.add("w" * 32, 1, rows, hour=0)
    assert usage_by_day(table, DAY, DAY + 1) == {
        (keys[0], DAY): (30, 14),
        (keys[1], DAY): (30, 14),
        (f"team:{team.id}", DAY): (60, 28),
    }
    assert usage_totals(table) == Tokens(41, 20)


METRICS = """\
# HELP sglang:prompt_tokens_total Number of prefill tokens processed.
sglang:prompt_tokens_total{is_streaming="true",model_name="m"} 1.2e+03
sglang:prompt_tokens_total{is_streaming="false",model_name="m"} 34.0
sglang:generation_tokens_total{is_streaming="true",model_name="m"} 7.0
sglang:prompt_tokens_total_created{model_name="m"} 1.7e+09
sglang:num_requests_total{model_name="m"} 9.0
"""


def test_engine_tokens_are_the_sums_over_labels() -> None:
    assert engine_tokens(METRICS) == Tokens(1234, 7)


def test_compared_engines_compare_the_growth() -> None:
    before = Snapshot(0.0, Tokens(100, 10), {"one": Tokens(50, 5), "two": Tokens(60, 6)})
    usage = Tokens(130, 15)
    agreeing = Snapshot(1.0, usage, {"one": Tokens(70, 8), "two": Tokens(60, 6), "new": Tokens(10, 2)})
    assert compared_engines(before, agreeing).agrees
    more = Snapshot(1.0, usage, {"one": Tokens(71, 8), "two": Tokens(70, 8)})
    found = compared_engines(before, more)
    assert (found.agrees, found.engines, found.usage) == (False, Tokens(31, 5), Tokens(30, 5))
    restarted = Snapshot(1.0, usage, {"one": Tokens(20, 3), "two": Tokens(70, 8)})
    assert compared_engines(before, restarted).restarted == ("one",)
    assert compared_engines(before, Snapshot(1.0, usage, {"one": Tokens(80, 10)})).restarted == ("two",)
