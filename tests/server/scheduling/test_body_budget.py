"""Memory of request bodies: bounded for all keys and for each, and given back."""

import pytest

from serval.errors import EngineOverloadedError, RateLimitError
from serval.scheduling.body_budget import FREE_BYTES, BodyBudget


def test_body_budget_bounds_one_key_to_half() -> None:
    budget = BodyBudget(1000)
    with budget.body("a") as first, budget.body("a") as second, budget.body("a") as third:
        first.add(FREE_BYTES + 400)
        with pytest.raises(RateLimitError) as caught:
            second.add(FREE_BYTES + 101)
        assert (caught.value.status, caught.value.retry_after_s) == (429, 5)
        third.add(FREE_BYTES + 100)
    assert budget.held_bytes == 0


def test_body_budget_bounds_all_keys() -> None:
    budget = BodyBudget(1000)
    with budget.body("a") as a, budget.body("b") as b, budget.body("c") as c:
        a.add(FREE_BYTES + 500)
        b.add(FREE_BYTES + 450)
        with pytest.raises(EngineOverloadedError) as caught:
            c.add(FREE_BYTES + 51)
        assert (caught.value.status, caught.value.retry_after_s) == (503, 5)
    assert budget.held_bytes == 0


def test_body_budget_leaves_short_bodies_alone() -> None:
    budget = BodyBudget(0)
    for _ in range(3):
        with budget.body("a") as body:
            body.add(FREE_BYTES - 1)
            body.add(1)
            with pytest.raises(RateLimitError):
                body.add(1)


def test_body_budget_counts_a_body_that_comes_in_pieces() -> None:
    budget = BodyBudget(1000)
    with budget.body("a") as body:
        for _ in range(FREE_BYTES // 64):
            body.add(64)
        assert budget.held_bytes == 0
        body.add(300)
        body.add(0)
        assert (budget.held_bytes, body.counted_bytes) == (300, 300)
    assert budget.held_bytes == 0


@pytest.mark.parametrize(
    ("kept", "held", "size"),
    [
        (FREE_BYTES + 700, 700, FREE_BYTES + 700),
        (FREE_BYTES + 800, 700, FREE_BYTES + 700),
        (FREE_BYTES + 100, 100, FREE_BYTES + 100),
        (FREE_BYTES, 0, FREE_BYTES),
        (10, 0, 10),
    ],
)
def test_body_budget_gets_back_what_was_not_decoded(kept: int, held: int, size: int) -> None:
    budget = BodyBudget(2000)
    with budget.body("a") as body:
        body.add(FREE_BYTES + 700)
        body.shrink_to(kept)
        assert (budget.held_bytes, body.size) == (held, size)
        body.add(5)  # of a stored conversation
        assert budget.held_bytes == max(0, size + 5 - FREE_BYTES)
    assert budget.held_bytes == 0
