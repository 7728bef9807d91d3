"""The search for the fastest launch, with given times."""

import itertools
from collections.abc import Callable

import pytest

from serval_sglang.moe_tuning.search import BF16_AXES, FP8_AXES, Launch, search, spelled_out

START = {"BLOCK_SIZE_M": 64, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 32, "GROUP_SIZE_M": 8}
BEST = {
    "BLOCK_SIZE_M": 16,
    "BLOCK_SIZE_N": 128,
    "BLOCK_SIZE_K": 64,
    "GROUP_SIZE_M": 1,
    "num_warps": 8,
    "num_stages": 5,
}


def distance(launch: Launch) -> float:
    """Seconds that grow with each step away from the best launch, along any axis."""
    steps = (
        abs(axis.index(launch[name]) - axis.index(BEST[name])) * weight
        for weight, (name, axis) in enumerate(BF16_AXES.items(), start=1)
    )
    return 1.0 + sum(steps)


def never() -> bool:
    return False


def test_search_finds_fastest_launch() -> None:
    trials = search([START], BF16_AXES, distance, never)
    assert trials.fastest() == (BEST, 1.0)
    every = itertools.product(*BF16_AXES.values())
    assert len(trials.seconds) < len(list(every)) / 20


def test_search_ends_where_no_single_change_is_faster() -> None:
    def interacting(launch: Launch) -> float:
        return distance(launch) + 3 * ((launch["BLOCK_SIZE_M"] > 32) ^ (launch["num_warps"] == 8))

    launch, seconds = search([START], BF16_AXES, interacting, never).fastest() or ({}, 0.0)
    changes = [{**launch, name: value} for name, axis in BF16_AXES.items() for value in axis]
    assert min(map(interacting, changes)) == seconds


@pytest.mark.parametrize(
    "is_wrong", [lambda launch: launch["num_stages"] == 5, lambda launch: launch == BEST]
)
def test_search_never_chooses_rejected_launch(is_wrong: Callable[[Launch], bool]) -> None:
    trials = search([START], BF16_AXES, lambda launch: None if is_wrong(launch) else distance(launch), never)
    launch, seconds = trials.fastest() or ({}, 0.0)
    assert not is_wrong(launch)
    changes = [{**launch, name: value} for name, axis in BF16_AXES.items() for value in axis]
    assert seconds == min(distance(change) for change in changes if not is_wrong(change))
    assert trials.rejected > 0


def test_search_improves_fastest_start() -> None:
    measured: list[Launch] = []

    def measure(launch: Launch) -> float:
        measured.append(launch)
        return distance(launch)

    search([START, BEST], BF16_AXES, measure, never)
    assert measured[:2] == [spelled_out(START), BEST]
    assert all(sum(launch[name] != BEST[name] for name in BEST) == 1 for launch in measured[2:])


def test_search_stops_when_time_is_over_with_best_so_far() -> None:
    measured: list[Launch] = []

    def measure(launch: Launch) -> float:
        measured.append(launch)
        return distance(launch)

    trials = search([START], BF16_AXES, measure, lambda: len(measured) == 7)
    assert len(trials.seconds) == len(measured) == 7
    found = trials.fastest()
    assert found is not None
    assert found[1] == min(map(distance, measured))
    assert search([START], BF16_AXES, measure, lambda: True).fastest() is None


def test_search_measures_no_launch_twice() -> None:
    measured: list[tuple[tuple[str, int], ...]] = []

    def measure(launch: Launch) -> float:
        measured.append(tuple(sorted(launch.items())))
        return distance(launch)

    search([START, START], BF16_AXES, measure, never)
    assert len(set(measured)) == len(measured)


def test_search_space_keeps_steps_of_fp8_within_one_scale() -> None:
    assert all(128 % step == 0 for step in FP8_AXES["BLOCK_SIZE_K"])
