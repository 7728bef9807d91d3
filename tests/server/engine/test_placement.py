"""Choice of a place: homes that never change, learning what is where, and staying there."""

from array import array
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serval.chat.prompt_parts import PromptParts
from serval.engine.placement import (
    BLOCK_TOKENS,
    FIRST_PREFILL_PER_S,
    GAIN_S,
    IDLE_KV_USE,
    IDLE_S,
    InFlight,
    PlacedPrompt,
    PlaceView,
    PrefixIndex,
    choose,
    home_of,
    placed_prompt,
)

PARTS = PromptParts(shared=512, first_turn=1024, earlier=0)
LONG = 40 * BLOCK_TOKENS


def views(number: int, *, kv_tokens: int = 1_000_000) -> list[PlaceView]:
    return [PlaceView(f"http://engine-{place}:30000", PrefixIndex(kv_tokens)) for place in range(number)]


def prompt_of(ids: Sequence[int], owner: str = "acme", parts: PromptParts | None = PARTS) -> PlacedPrompt:
    return placed_prompt(ids, owner=owner, parts=parts)


def waiting(view: PlaceView, seconds: float) -> None:
    view.own_waiting = round(seconds * view.prefill_per_s)


def test_placed_prompt_has_golden_values() -> None:
    """Gateways of several releases stand beside each other, and have to agree."""
    prompt = prompt_of(range(1100))
    assert prompt.blocks == [
        2000203650241606075,
        2374286590916553735,
        18226414011025606454,
        11126581607722482222,
    ]
    assert prompt.conversation.hex() == "d4754bf47181d86834334e2ecf0c3774"
    assert prompt.shared_key.hex() == "f68ff4469e7bcc21ce22ec3b028eb678"
    homes = [home_of(prompt_of(range(first, first + 1100)).conversation, views(4)) for first in range(8)]
    assert "".join(view.identity[14] for view in homes) == "13000122"


def test_placed_prompt_is_the_same_for_lists_and_arrays() -> None:
    assert prompt_of(list(range(1100))) == prompt_of(array("I", range(1100)))


def test_blocks_are_those_of_the_same_beginning() -> None:
    ids = list(range(4 * BLOCK_TOKENS))
    blocks = prompt_of(ids).blocks
    assert prompt_of([*ids, 1, 2, 3]).blocks == blocks
    changed = [*ids]
    changed[BLOCK_TOKENS] += 1
    same = [one == other for one, other in zip(blocks, prompt_of(changed).blocks, strict=True)]
    assert same == [True, False, False, False]


def test_owners_share_neither_blocks_nor_homes() -> None:
    one, other = prompt_of(range(2000), "acme"), prompt_of(range(2000), "zenith")
    assert not set(one.blocks) & set(other.blocks)
    assert one.conversation != other.conversation
    assert one.shared_key != other.shared_key


def test_prompts_of_unknown_structure_are_told_apart_by_their_beginning() -> None:
    one = prompt_of(range(3000), parts=None)
    longer = prompt_of(range(9000), parts=None)
    assert one.conversation == longer.conversation
    assert one.conversation != prompt_of(range(1, 3000), parts=None).conversation


@given(st.integers(min_value=1, max_value=12), st.integers())
def test_added_place_takes_its_share_and_moves_nothing_else(number: int, seed: int) -> None:
    before, after = views(number), views(number + 1)
    moved = 0
    keys = [f"{seed}-{conversation}".encode()[-60:] for conversation in range(400)]
    for key in keys:
        old, new = home_of(key, before), home_of(key, after)
        if old.identity != new.identity:
            assert new is after[-1]
            moved += 1
    assert moved / len(keys) <= 1 / (number + 1) + 0.1


def test_fifth_place_takes_at_most_a_fifth_and_five_points() -> None:
    keys = [prompt_of(range(first, first + 1024)).conversation for first in range(4000)]
    moved = sum(home_of(key, views(4)).identity != home_of(key, views(5)).identity for key in keys)
    assert moved / len(keys) <= 0.25


def test_homes_are_spread_evenly() -> None:
    places = views(4)
    homes = Counter(home_of(number.to_bytes(8, "little"), places).identity for number in range(4000))
    assert max(homes.values()) <= 1100


def test_order_of_places_does_not_matter() -> None:
    prompt = prompt_of(range(LONG))
    places = views(5)
    assert choose(prompt, places).view is choose(prompt, places[::-1]).view


def test_short_prompts_live_where_their_system_prompt_does() -> None:
    places = views(4)
    parts = PromptParts(shared=1024, first_turn=1500, earlier=0)
    chosen = {
        choose(prompt_of([*range(1024), *[question] * 500], parts=parts), places).view.identity
        for question in range(40)
    }
    assert len(chosen) == 1


def question(number: int) -> PlacedPrompt:
    """A short question behind a system prompt."""
    parts = PromptParts(shared=1024, first_turn=1500, earlier=0)
    return prompt_of([*range(1024), *[number] * 500], parts=parts)


def test_shared_part_with_several_homes_spreads_conversations_over_them() -> None:
    places = views(4)
    chosen = Counter(choose(question(number), places, shared_homes=3).view.identity for number in range(300))
    assert len(chosen) == 3
    assert max(chosen.values()) < 130
    assert choose(question(0), places).view.identity in chosen
    assert all(choose(question(0), places, shared_homes=homes).held == 1024 for homes in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("sharing", "others", "homes"),
    [(0, 10, 1), (1, 0, 1), (2, 2, 2), (16, 16, 4), (64, 0, 4), (8, 72, 2), (2, 98, 1)],
)
def test_shared_part_has_as_many_homes_as_its_requests_in_flight_need(
    sharing: int, others: int, homes: int
) -> None:
    in_flight = InFlight()
    long = prompt_of(range(LONG))
    for number in range(sharing):
        in_flight.started(question(number))
    for _ in range(others):
        in_flight.started(long)
    assert in_flight.homes(question(1000), 4) == homes
    for number in range(sharing):
        in_flight.ended(question(number))
    assert in_flight.homes(question(1000), 4) == 1


def test_long_prompts_live_where_their_conversation_does() -> None:
    places = views(4)
    parts = PromptParts(shared=1024, first_turn=4000, earlier=0)
    chosen = {
        choose(prompt_of([*range(1024), *[question] * 3000], parts=parts), places).view.identity
        for question in range(40)
    }
    assert len(chosen) == 4


def test_prompt_stays_where_most_of_it_is() -> None:
    prompt, places = prompt_of(range(LONG)), views(4)
    home = choose(prompt, places)
    assert (home.reason, home.held) == (
        "home",
        0 if home.view is not home_of(prompt.shared_key, places) else 512,
    )
    other = next(view for view in places if view is not home.view)
    other.index.add(prompt.blocks)
    held = choose(prompt, places)
    assert (held.view, held.reason, held.held) == (other, "held", LONG - 1)
    assert held.moving_s == pytest.approx((LONG - 1) / FIRST_PREFILL_PER_S, rel=0.1)


def test_shared_beginning_does_not_tie_a_prompt() -> None:
    prompt, places = prompt_of(range(LONG)), views(4)
    home = choose(prompt, places).view
    other = next(view for view in places if view is not home)
    other.index.add(prompt.blocks[:4])  # twice the shared part
    assert choose(prompt, places).view is home


@pytest.mark.parametrize(("busy_s", "leaves"), [(GAIN_S, False), (GAIN_S + 0.6, True)])
def test_prompt_leaves_for_an_idle_place_only_if_that_saves_enough(busy_s: float, leaves: bool) -> None:
    prompt, places = prompt_of(range(10_000)), views(2)  # half a second of prefill
    keeper, other = places
    keeper.index.add(prompt.blocks)
    waiting(keeper, busy_s)
    choice = choose(prompt, places)
    assert (choice.view is other, choice.reason == "idle") == (leaves, leaves)


@pytest.mark.parametrize(("waiting_s", "kv_use"), [(IDLE_S + 0.1, 0.0), (0.0, IDLE_KV_USE + 0.1)])
def test_prompt_does_not_leave_for_a_busy_place(waiting_s: float, kv_use: float) -> None:
    prompt, places = prompt_of(range(10_000)), views(2)
    keeper, other = places
    keeper.index.add(prompt.blocks)
    waiting(keeper, 1000)
    waiting(other, waiting_s)
    other.kv_use = kv_use
    assert choose(prompt, places).view is keeper


def test_waiting_is_the_larger_of_own_and_reported() -> None:
    (view,) = views(1)
    view.own_waiting, view.polled_waiting = 10_000, 30_000
    assert view.waiting_s == 30_000 / FIRST_PREFILL_PER_S


def test_turn_before_is_looked_for_at_home() -> None:
    parts = PromptParts(shared=512, first_turn=1024, earlier=30 * BLOCK_TOKENS)
    choice = choose(prompt_of(range(LONG), parts=parts), views(4))
    assert (choice.reason, choice.held) == ("held", 30 * BLOCK_TOKENS)
    assert choice.view.identity == home_of(prompt_of(range(LONG)).conversation, views(4)).identity


def test_only_place_is_chosen_whatever_waits_there() -> None:
    (view,) = views(1)
    waiting(view, 1000)
    choice = choose(prompt_of(range(10)), [view])
    assert (choice.view, choice.reason) == (view, "only")


@given(st.lists(st.integers(min_value=1, max_value=30), min_size=1, max_size=20))
def test_index_never_exceeds_the_cache_and_keeps_the_newest(lengths: list[int]) -> None:
    index = PrefixIndex(32 * BLOCK_TOKENS)
    for number, length in enumerate(lengths):
        blocks = prompt_of([number] * length * BLOCK_TOKENS, parts=None).blocks
        index.add(blocks)
        assert len(index) <= 32
        assert index.match(blocks) == length


def test_index_forgets_the_end_of_a_prompt_before_its_start() -> None:
    index = PrefixIndex(10 * BLOCK_TOKENS)
    old, new = (prompt_of([number] * 8 * BLOCK_TOKENS, parts=None).blocks for number in (1, 2))
    index.add(old)
    index.add(new)
    assert index.match(old) == 2


def canary_beside(number: int, weight: float) -> list[PlaceView]:
    """Return a canary, and ordinary places."""
    places = views(number + 1)
    places[0].weight = weight
    return places


KEYS = [number.to_bytes(16, "little") for number in range(8000)]


def four_deviations(share: float) -> float:
    """Return four standard deviations of a binomial share of the keys: 0.97 points for 5 %."""
    return float(4 * (share * (1 - share) / len(KEYS)) ** 0.5)


@pytest.mark.parametrize(
    ("number", "weight"), [(1, 0.05 / 0.95), (4, 4 * 0.05 / 0.95), (7, 0.05), (2, 1.0), (3, 9.0)]
)
def test_home_of_gives_a_place_its_share_of_conversations(number: int, weight: float) -> None:
    places = canary_beside(number, weight)
    share = weight / (number + weight)
    found = sum(home_of(key, places) is places[0] for key in KEYS) / len(KEYS)
    assert abs(found - share) <= four_deviations(share)


@pytest.mark.parametrize(("before", "after"), [(0.2, 0.5), (0.5, 0.2), (1.0, 0.0), (0.2, 1.0)])
def test_changed_weight_moves_only_the_difference_of_the_shares(before: float, after: float) -> None:
    places = canary_beside(4, before)
    canary = places[0]
    homes = [home_of(key, places) for key in KEYS]
    canary.weight = after
    moved = [
        (old, new) for old, key in zip(homes, KEYS, strict=True) if (new := home_of(key, places)) is not old
    ]
    assert {new is canary for _, new in moved} == {after > before}
    assert all((old is canary) is (after < before) for old, _ in moved)
    share = abs(after / (4 + after) - before / (4 + before))
    assert abs(len(moved) / len(KEYS) - share) <= four_deviations(share)


def test_equal_weights_leave_homes_where_they_are() -> None:
    places, heavier = views(5), views(5)
    for view in heavier:
        view.weight = 7.0
    for key in KEYS[:2000]:
        assert home_of(key, places) is max(places, key=lambda view: view.rank(key))
        assert home_of(key, heavier).identity == home_of(key, places).identity


def test_place_without_weight_is_no_home_and_keeps_what_it_holds() -> None:
    places = canary_beside(2, 0.0)
    assert all(home_of(key, places) is not places[0] for key in KEYS)
    prompt = prompt_of(range(LONG))
    places[0].index.add(prompt.blocks)
    assert choose(prompt, places).view is places[0]


def test_prompts_leave_for_an_idle_canary_only_if_it_is_their_home() -> None:
    places = canary_beside(4, 4 * 0.05 / 0.95)
    canary, *others = places
    for view in others:
        waiting(view, 1000)
    prompts = [prompt_of(range(first, first + 2048)) for first in range(4000)]
    there = [prompt for prompt in prompts if choose(prompt, places).view is canary]
    assert there == [prompt for prompt in prompts if home_of(prompt.conversation, places) is canary]
    assert len(there) / len(prompts) == pytest.approx(0.05, abs=0.014)
    # A conversation that was held elsewhere before the weight was raised may go home.
    others[0].index.add(there[0].blocks)
    assert choose(there[0], places).reason == "idle"


def test_prompts_of_a_busy_canary_leave_for_an_idle_place() -> None:
    prompt, places = prompt_of(range(10_000)), canary_beside(1, 0.05)
    places[0].index.add(prompt.blocks)
    waiting(places[0], 1000)
    assert choose(prompt, places).view is places[1]
