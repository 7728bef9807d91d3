"""Order of requests in the queue for the engine."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serval.caller.priority import PRIORITIES, Priority
from serval.scheduling.fair_queue import (
    AGED_S,
    AGED_TURN,
    MOST_LOOKED_AT,
    FairQueue,
    QueueFullError,
    Ticket,
)


def ticket(key: str = "a", priority: Priority = "default", tokens: int = 10, arrived: float = 0.0) -> Ticket:
    return Ticket(key, priority, tokens, arrived)


def drained(queue: FairQueue, now: float = 0.0) -> list[Ticket]:
    return [queue.pop(now) for _ in range(len(queue))]


def test_queue_serves_a_first_request_before_the_hundredth_of_another_key() -> None:
    queue = FairQueue(1000)
    for _ in range(100):
        queue.push(ticket("many"))
    queue.push(ticket("one"))
    order = [each.key for each in drained(queue)]
    assert order.index("one") <= 1


def test_queue_shares_by_tokens_not_by_requests() -> None:
    queue = FairQueue(1000)
    for _ in range(100):
        queue.push(ticket("large", tokens=1000))
        queue.push(ticket("small", tokens=10))
    first = [queue.pop(0.0) for _ in range(60)]
    assert Counter(each.key for each in first)["small"] > 55


def test_queue_serves_more_urgent_classes_first() -> None:
    queue = FairQueue(1000)
    for priority in reversed(PRIORITIES):
        for _ in range(3):
            queue.push(ticket(priority=priority))
    assert [each.priority for each in drained(queue)] == [each for each in PRIORITIES for _ in range(3)]


@pytest.mark.parametrize("priority", ["default", "bulk"])
def test_queue_gives_aged_requests_every_fourth_turn(priority: Priority) -> None:
    queue = FairQueue(1000)
    queue.push(ticket(priority=priority))
    for _ in range(20):
        queue.push(ticket(priority="interactive", arrived=AGED_S[priority]))
    order = drained(queue, now=AGED_S[priority])
    assert [each.priority for each in order].index(priority) == AGED_TURN - 1


def test_queue_gives_urgent_requests_most_turns_when_all_others_have_aged() -> None:
    queue = FairQueue(1000)
    for _ in range(50):
        queue.push(ticket(priority="bulk"))
        queue.push(ticket(priority="interactive"))
    order = [queue.pop(1000.0) for _ in range(40)]
    assert Counter(each.priority for each in order)["interactive"] >= 30


def test_queue_limits_each_class_separately() -> None:
    queue = FairQueue(2)
    queue.push(ticket())
    queue.push(ticket())
    with pytest.raises(QueueFullError):
        queue.push(ticket())
    assert queue.push(ticket(priority="bulk")) is None
    assert len(queue) == 3


def test_full_queue_drops_a_request_of_the_key_with_most() -> None:
    queue = FairQueue(4)
    waiting = [ticket("many") for _ in range(4)]
    for each in waiting:
        queue.push(each)
    assert queue.push(ticket("one")) is waiting[-1]
    assert queue.push(ticket("two")) is waiting[-2]
    # Now it has two, and another key's second one would make that key's share equal.
    with pytest.raises(QueueFullError):
        queue.push(ticket("one"))
    with pytest.raises(QueueFullError):
        queue.push(ticket("many"))


def test_queue_does_not_charge_a_key_for_discarded_requests() -> None:
    queue = FairQueue(1000)
    queue.push(ticket("busy"))
    for _ in range(50):
        left = ticket("fickle", tokens=1000)
        queue.push(left)
        queue.discard(left)
    queue.push(ticket("busy"))
    queue.push(ticket("fickle"))
    assert [each.key for each in drained(queue)].index("fickle") <= 1


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from("abc"), st.sampled_from(PRIORITIES), st.integers(1, 2000)),
        st.tuples(st.just("pop")),
        st.tuples(st.just("discard"), st.integers(0, 200)),
    ),
    max_size=300,
)


@given(OPERATIONS)
def test_queue_returns_each_ticket_once_unless_discarded(operations: list[tuple[object, ...]]) -> None:
    queue = FairQueue(30)
    inside: list[Ticket] = []
    for now, operation in enumerate(operations):
        match operation:
            case ("push", str(key), priority, int(tokens)):
                fresh = Ticket(key, priority, tokens, float(now))  # type: ignore[arg-type]
                try:
                    victim = queue.push(fresh)
                except QueueFullError:
                    continue
                inside.append(fresh)
                if victim is not None:
                    inside.remove(victim)
            case ("pop",) if inside:
                inside.remove(queue.pop(float(now)))
            case ("discard", int(place)) if inside:
                left = inside.pop(place % len(inside))
                queue.discard(left)
                queue.discard(left)
        assert len(queue) == len(inside)
    rest = drained(queue, now=float(len(operations)))
    assert len(rest) == len(inside)
    assert set(map(id, rest)) == set(map(id, inside))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 500)), min_size=1, max_size=200))
def test_queue_keeps_waiting_keys_within_one_request_of_each_other(
    requests: list[tuple[str, int]],
) -> None:
    queue = FairQueue(1000)
    waiting: Counter[str | None] = Counter()
    for key, tokens in requests:
        queue.push(ticket(key, tokens=tokens))
        waiting[key] += 1
    largest = max(tokens for _, tokens in requests)
    served: Counter[str | None] = Counter({key: 0 for key in waiting})
    while len(queue):
        always = {key for key, left in waiting.items() if left}
        for one in always:
            for other in always:
                assert served[one] - served[other] <= 2 * largest
        next_one = queue.pop(0.0)
        served[next_one.key] += next_one.tokens
        waiting[next_one.key] -= 1


Arrivals = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(PRIORITIES), st.integers(1, 100), st.floats(0, 60)),
    max_size=40,
)


@given(Arrivals)
def test_queue_that_accepts_all_pops_in_the_usual_order(
    arrivals: list[tuple[str, Priority, int, float]],
) -> None:
    tickets = [ticket(*arrival) for arrival in arrivals]
    usual, accepting = FairQueue(1000), FairQueue(1000)
    for one in tickets:
        usual.push(one)
    expected = drained(usual, now=60.0)
    for one in tickets:
        accepting.push(one)
    assert [accepting.pop_accepted(60.0, lambda _: True) for _ in tickets] == expected
    assert len(accepting) == 0


def test_queue_passes_over_tickets_that_are_not_accepted_and_keeps_their_place() -> None:
    queue = FairQueue(1000)
    tickets = [ticket(key) for key in "abcd"]
    for one in tickets:
        queue.push(one)
    assert queue.pop_accepted(0.0, lambda one: one.key == "c") is tickets[2]
    assert queue.pop_accepted(0.0, lambda one: one.key == "x") is None
    assert [one.key for one in drained(queue)] == ["a", "b", "d"]


def test_queue_looks_past_a_bounded_number_of_tickets() -> None:
    queue = FairQueue(1000)
    for number in range(MOST_LOOKED_AT + 1):
        queue.push(ticket(str(number)))
    last = str(MOST_LOOKED_AT)
    assert queue.pop_accepted(0.0, lambda one: one.key == last) is None
    assert queue.pop(0.0).key == "0"
    found = queue.pop_accepted(0.0, lambda one: one.key == last)
    assert found is not None
    assert found.key == last


def test_queue_looks_for_accepted_tickets_in_all_classes() -> None:
    queue = FairQueue(1000)
    queue.push(ticket("a", "interactive"))
    queue.push(ticket("b", "bulk"))
    found = queue.pop_accepted(0.0, lambda one: one.key == "b")
    assert found is not None
    assert (found.priority, len(queue)) == ("bulk", 1)


def test_queue_charges_a_key_for_what_was_taken_before_its_turn() -> None:
    queue = FairQueue(1000)
    for key in ("a", "a", "b"):
        queue.push(ticket(key))
    first = queue.pop_accepted(0.0, lambda one: one.key == "a")
    second = queue.pop_accepted(0.0, lambda one: one.key == "a")
    assert first is not None
    assert second is not None
    queue.push(ticket("a"))
    assert queue.pop(0.0).key == "b"
