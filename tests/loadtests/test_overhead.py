"""Overhead of the three ways to one engine, measured with the stand-in as the engine."""

import pytest

from serval_load.overhead import NATIVE, SERVAL, SGLANG, Measured, Servers, interval, measure_ways, table
from serval_testkit.load_stack import load_stack


async def test_measure_ways_asks_each_way_once_a_round() -> None:
    async with load_stack() as stack:
        servers = Servers(stack.engine, stack.engine_peer, stack.gateway, stack.peer, "stand-in")
        found = await measure_ways(servers, rounds=6, tokens=5, log=print)
        await stack.all_free()
        # Each way also warms up with five questions.
        assert (await stack.engine_load())["counts"]["finished"] == (6 + 5) * 3
    assert set(found) == {NATIVE, SGLANG, SERVAL}
    for one in found.values():
        assert len(one.first_s) == len(one.end_s) == len(one.cpu_s) == 6
        assert all(first <= end for first, end in zip(one.first_s, one.end_s, strict=True))
        assert all(spent > 0 for spent in one.cpu_s)


def test_table_shows_the_overhead_of_each_way() -> None:
    found = {
        NATIVE: Measured([0.1] * 9, [1.0] * 9, [0.001] * 9),
        SGLANG: Measured([0.2] * 9, [1.5] * 9, [0.002] * 9),
        SERVAL: Measured([0.3] * 9, [1.02] * 9, [0.003] * 9),
    }
    rows = [line.split(" | ")[1:] for line in table(found, machine="here").splitlines()[4:]]
    assert rows == [
        ["100.0", "1000.0", "1", "1.0 |"],
        ["200.0", "1500.0", "1.5000 (1.5000 to 1.5000)", "2.0 |"],
        ["300.0", "1020.0", "1.0200 (1.0200 to 1.0200)", "3.0 |"],
    ]


def test_interval_contains_the_median_of_its_values() -> None:
    low, high = interval([0.9, 1.0, 1.1] * 20)
    assert low <= 1.0 <= high
    assert interval([2.0] * 5) == (2.0, 2.0)
    assert low == pytest.approx(1.0, abs=0.1)
