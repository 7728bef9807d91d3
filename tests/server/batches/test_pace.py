"""Bounds of callers whose limits refuse lines."""

from serval.batches.pace import CallerPaces


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_caller_without_a_refusal_has_no_bound() -> None:
    paces = CallerPaces(Clock())
    paces.begin("a")
    paces.answered("a", 16)
    assert paces.room() == {}


def test_refused_caller_pauses_and_then_runs_as_many_as_ran_beside_the_refused_one() -> None:
    clock = Clock()
    paces = CallerPaces(clock)
    for _ in range(4):
        paces.begin("a")
    paces.end("a")
    paces.refused("a", 5.0)
    assert paces.room() == {"a": 0}
    clock.now = 5.0
    assert paces.room() == {"a": 0}
    paces.end("a")
    assert paces.room() == {"a": 1}


def test_bound_is_one_at_least_and_grows_with_answers_until_it_is_forgotten() -> None:
    clock = Clock()
    paces = CallerPaces(clock)
    paces.refused("a", 1.0)
    clock.now = 1.0
    assert paces.room() == {"a": 1}
    paces.answered("a", 4)
    assert paces.room() == {"a": 2}
    for _ in range(6):
        paces.answered("a", 4)
    assert paces.room() == {}
