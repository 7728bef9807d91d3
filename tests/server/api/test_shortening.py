"""Search for the fewest steps: prompts fit, edits keep their promises, and prefixes last for many turns."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from serval.api.shortening import ClearToolUses, truncated, with_cleared_uses
from serval.chat.long_text import TokenLimitError
from serval.chat.render import RenderedPrompt
from serval.chat.tool_clearing import PLACEHOLDER
from serval.chat.truncation import Message

TASK = {"role": "user", "content": "Find the fault."}
TOKENS_OF_A_USE = 120


def render(messages: Sequence[Message], limit: int) -> RenderedPrompt:
    """A token for each four characters of the texts, and one that ends each message."""
    ids: list[int] = []
    for message in messages:
        calls = "".join(str(call) for call in message.get("tool_calls") or ())
        text = f"{message.get('content')}{calls}"
        ids += [hash(text[start : start + 4]) for start in range(0, len(text), 4)] + [0]
    if len(ids) > limit:
        raise TokenLimitError
    return RenderedPrompt([], ids, None)


def use(number: int, name: str = "read") -> list[dict[str, Any]]:
    """A call and its result, of about `TOKENS_OF_A_USE` tokens."""
    call = {"id": f"c{number}", "function": {"name": name, "arguments": "{}"}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": f"{number:<400}"},
    ]


def session(uses: int) -> list[dict[str, Any]]:
    return [TASK, *(message for number in range(uses) for message in use(number))]


def changes(prompts: Sequence[RenderedPrompt]) -> int:
    """Count the prompts that do not begin with the one before."""
    ids = [prompt.input_ids for prompt in prompts]
    return sum(new[: len(old)] != old for old, new in pairwise(ids))


def test_short_conversation_is_not_truncated() -> None:
    whole = render(session(3), 10_000)
    assert truncated(session(3), render, 10_000, answer_tokens=None).input_ids == whole.input_ids


def test_truncated_prompt_leaves_room_for_the_answer_and_begins_with_the_question() -> None:
    prompt = truncated(session(50), render, 2_000, answer_tokens=300)
    question = render([TASK], 100).input_ids
    assert prompt.input_ids[: len(question)] == question
    assert prompt.input_ids[-60:] == render(session(50), 10_000).input_ids[-60:]
    assert 1_000 < len(prompt.input_ids) <= 1_700
    # A limit beyond all room takes a quarter.
    assert 1_000 < len(truncated(session(50), render, 2_000, answer_tokens=9_000).input_ids) <= 1_500


def test_truncated_prefix_changes_seldom_while_a_conversation_grows() -> None:
    prompts = [truncated(session(uses), render, 2_400, answer_tokens=400) for uses in range(1, 100)]
    # 2,000 tokens hold 16 uses; each change drops a quarter of them.
    assert 83 / 5 <= changes(prompts) <= 83 / 3


def test_conversation_whose_last_turn_does_not_fit_is_refused() -> None:
    with pytest.raises(TokenLimitError):
        truncated([*session(5), {"role": "user", "content": "x" * 9_000}], render, 2_000, answer_tokens=1)


@pytest.mark.parametrize("before", [0, 5])
def test_last_question_may_take_the_room_of_the_answer(before: int) -> None:
    question = {"role": "user", "content": "x" * 7_000}
    messages = [*session(before), question] if before else [question]
    prompt = truncated(messages, render, 2_000, answer_tokens=None)
    assert len(prompt.input_ids) == 7_000 / 4 + 1


def test_long_results_are_dropped_one_by_one_where_steps_do_not_suffice() -> None:
    # The last result alone takes nearly all room, so no cut at a whole step suffices.
    last = [*use(90)[:1], {"role": "tool", "tool_call_id": "c90", "content": "x" * 6_000}]
    prompt = truncated([*session(3), *last], render, 2_000, answer_tokens=1)
    assert len(prompt.input_ids) > 1_500


def edited(uses: int, limit: int = 100_000, **edit: Any) -> tuple[int, int, int]:
    """Return uses and tokens that were cleared, and the prompt's length."""
    made = with_cleared_uses(session(uses), render, limit, edit=ClearToolUses(**edit))
    return made.cleared_uses, made.cleared_tokens, len(made.prompt.input_ids)


def test_results_stay_below_the_trigger() -> None:
    whole = len(render(session(10), 9_999).input_ids)
    assert edited(10, trigger_tokens=whole) == (0, 0, whole)
    uses, tokens, length = edited(10, trigger_tokens=whole - 1)
    assert uses > 0
    assert length == whole - tokens < whole - 1


def test_results_are_cleared_until_the_prompt_is_below_the_trigger() -> None:
    uses, tokens, length = edited(25, trigger_tokens=2_400)
    assert 1_500 < length <= 2_400
    assert 5 <= uses <= 10
    assert tokens == len(render(session(25), 99_999).input_ids) - length


def test_kept_and_excluded_uses_are_never_cleared() -> None:
    messages = [TASK, *use(0, "memory"), *session(20)[1:], *use(30, "memory")]
    edit = ClearToolUses(trigger_tokens=100, keep=4, exclude=frozenset({"memory"}))
    seen: list[str] = []

    def noting(shown: Sequence[Message], limit: int) -> RenderedPrompt:
        seen[:] = [one["content"] for one in shown if one["role"] == "tool"]
        return render(shown, limit)

    made = with_cleared_uses(messages, noting, 100_000, edit=edit)
    assert made.cleared_uses == 17
    assert seen[0] != PLACEHOLDER
    assert seen[1:18] == [PLACEHOLDER] * 17
    assert PLACEHOLDER not in seen[18:]


def test_nothing_is_cleared_where_less_would_be_than_asked_for() -> None:
    whole = len(render(session(10), 9_999).input_ids)
    assert edited(10, trigger_tokens=500, clear_at_least=5_000) == (0, 0, whole)
    uses, tokens, _ = edited(10, trigger_tokens=500, clear_at_least=500)
    assert uses >= 5
    assert tokens >= 500


def test_promise_to_clear_at_least_is_in_tokens_not_in_bytes() -> None:
    def sparse(shown: Sequence[Message], limit: int) -> RenderedPrompt:
        ids = render(shown, 1 << 20).input_ids[::8]
        if len(ids) > limit:
            raise TokenLimitError
        return RenderedPrompt([], ids, None)

    # The steps of 100 tokens, or 400 bytes, save 12 tokens each here, and all of 7 uses less than 100.
    edit = ClearToolUses(trigger_tokens=100, clear_at_least=100)
    assert with_cleared_uses(session(10), sparse, 100_000, edit=edit).cleared_uses == 0


def test_trigger_by_uses_clears_a_quarter_of_them_at_once() -> None:
    assert [edited(uses, trigger_tokens=None, trigger_uses=8, keep=2)[0] for uses in range(7, 14)] == [
        0, 0, 2, 2, 4, 4, 6,
    ]  # fmt: skip


def test_cleared_prefix_changes_seldom_while_a_conversation_grows() -> None:
    edit = ClearToolUses(trigger_tokens=3_000, keep=3)
    prompts = [with_cleared_uses(session(uses), render, 9_999, edit=edit).prompt for uses in range(1, 60)]
    # 3,000 tokens hold 24 uses; a step is a quarter of them.
    assert 1 <= changes(prompts) <= 12


def test_end_of_the_context_triggers_the_edit_too() -> None:
    uses, _, length = edited(40, limit=2_000)
    assert uses > 0
    assert length <= 2_000
    with pytest.raises(TokenLimitError):
        edited(40, limit=300)


def test_conversation_beyond_the_context_is_cleared_in_whole_steps_where_they_suffice() -> None:
    # Whole steps bring it below the context, though not below the trigger: the rest of a step stays.
    edit = ClearToolUses(trigger_tokens=1_000, keep=0)
    prompts = [with_cleared_uses(session(uses), render, 2_500, edit=edit) for uses in range(30, 40)]
    assert any(prompt.cleared_uses < uses for uses, prompt in enumerate(prompts, 30))
    assert len({prompt.cleared_uses for prompt in prompts}) < 8


def test_search_renders_few_times() -> None:
    count = 0

    def counting(shown: Sequence[Message], limit: int) -> RenderedPrompt:
        nonlocal count
        count += 1
        return render(shown, limit)

    truncated(session(2_000), counting, 1_000, answer_tokens=1)
    assert count <= 12
