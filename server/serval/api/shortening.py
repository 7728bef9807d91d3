"""Prompts of conversations that are too long, for Responses' `truncation` and Messages' context editing.

Both search the fewest steps after which the prompt is short enough. It gets shorter with each step, so a
binary search does with a few renderings, each of which ends where the allowed prompt does.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from serval.chat.long_text import TokenLimitError
from serval.chat.render import RenderedPrompt
from serval.chat.tool_clearing import (
    ClearToolUses,
    ToolUse,
    clearable,
    cleared,
    counts_by_bytes,
    counts_by_number,
    tool_uses,
)
from serval.chat.truncation import Message, cuts, kept_from

# Renders a conversation in OpenAI's form. Raises `TokenLimitError` beyond the given number of tokens.
Render = Callable[[Sequence[Message], int], RenderedPrompt]
# Renders a conversation within the given number of tokens, shortened if need be. Raises `TokenLimitError`.
Shorten = Callable[[Sequence[Message], Render, int], RenderedPrompt]

# A step is this share of the room, of the trigger in tokens, or of the trigger in uses.
STEP_SHARE: Final = 4
# A token of text has about so many bytes. Only the size of a step depends on it.
_BYTES_PER_TOKEN: Final = 4
# Room that an answer without a limit of its own gets, in tokens.
_ANSWER_TOKENS: Final = 4096


class Clearing(Struct, frozen=True):
    """Result of an edit: the prompt, the tokens that it had before, and how many uses and tokens are cleared.

    Tokens before are counted up to twice the longest prompt.
    """

    prompt: RenderedPrompt
    original_tokens: int
    cleared_uses: int = 0
    cleared_tokens: int = 0


def truncated(
    messages: Sequence[Message], render: Render, limit: int, *, answer_tokens: int | None
) -> RenderedPrompt:
    """Render the conversation without its oldest turns and calls, as few steps of them as need to go.

    The prompt leaves room for `answer_tokens`, but a quarter of `limit` at most, and less if what the model
    has to answer takes it. Raises `TokenLimitError` if not even that fits.
    """
    room = limit - min(answer_tokens or _ANSWER_TOKENS, limit // 4)
    whole = _within(render, messages, room)
    if whole is not None:
        return whole
    places = cuts(messages, max(room * _BYTES_PER_TOKEN // STEP_SHARE, 1))
    prompts: dict[int, RenderedPrompt | None] = {}

    def fits(cut: int) -> bool:
        prompts[cut] = _within(render, kept_from(messages, cut), room)
        return prompts[cut] is not None

    found = bisect_left(places, True, key=fits)
    if found == len(places):
        return render(kept_from(messages, places[-1]) if places else messages, limit)
    prompt = prompts[places[found]]
    assert prompt is not None
    return prompt


def with_cleared_uses(
    messages: Sequence[Message], render: Render, limit: int, *, edit: ClearToolUses
) -> Clearing:
    """Render the conversation, with the oldest results of tools cleared if the edit's trigger is passed.

    As few steps are cleared as bring it below the trigger, and never those that the edit keeps. If clearing
    all whole steps does not suffice, they are cleared all the same. `limit` is a trigger, too. Raises
    `TokenLimitError` if nothing makes the conversation fit.
    """
    uses = tool_uses(messages)
    whole = None if _triggered_by_uses(uses, edit) else _within(render, messages, _untriggered(edit, limit))
    if whole is not None:
        return Clearing(whole, len(whole.input_ids))
    whole = _within(render, messages, 2 * limit)
    original = 2 * limit if whole is None else len(whole.input_ids)
    allowed = clearable(uses, keep=edit.keep, exclude=edit.exclude)
    made: dict[int, Clearing | None] = {}

    def clearing(count: int) -> Clearing | None:
        """Clear so many uses; None if the prompt is still longer than `limit`."""
        if count not in made:
            chosen = allowed[:count]
            inputs_of = {use.name for use in chosen} if edit.inputs_of is None else edit.inputs_of
            prompt = _within(render, cleared(messages, chosen, inputs_of=inputs_of), limit)
            made[count] = None
            if prompt is not None:
                made[count] = Clearing(prompt, original, count, original - len(prompt.input_ids))
        return made[count]

    def enough(count: int) -> bool:
        one = clearing(count)
        if one is None or one.cleared_tokens < edit.clear_at_least:
            return False
        if edit.trigger_uses is not None:
            return len(uses) - count <= edit.trigger_uses
        return len(one.prompt.input_ids) <= _untriggered(edit, limit)

    counts = _counts(messages, allowed, edit)
    if original > limit and (not counts or clearing(counts[-1]) is None):
        # Not in whole steps, because a refusal would be worse.
        counts.append(len(allowed))
    found = bisect_left(counts, True, key=enough)
    best = clearing(counts[min(found, len(counts) - 1)]) if counts else None
    if best is None or best.cleared_tokens < max(edit.clear_at_least, 1):
        return Clearing(render(messages, limit), original)
    return best


def _triggered_by_uses(uses: Sequence[ToolUse], edit: ClearToolUses) -> bool:
    return edit.trigger_uses is not None and len(uses) > edit.trigger_uses


def _untriggered(edit: ClearToolUses, limit: int) -> int:
    """Return the longest prompt that triggers no edit, in tokens."""
    return limit if edit.trigger_tokens is None else min(edit.trigger_tokens, limit)


def _counts(messages: Sequence[Message], allowed: Sequence[ToolUse], edit: ClearToolUses) -> list[int]:
    """Return the numbers of uses that are cleared at once, after one step, after two, and so on."""
    if edit.trigger_uses is not None:
        return counts_by_number(allowed, max(edit.trigger_uses // STEP_SHARE, 1))
    step = max((edit.trigger_tokens or 0) // STEP_SHARE, edit.clear_at_least, 1)
    return counts_by_bytes(messages, allowed, step * _BYTES_PER_TOKEN)


def _within(render: Render, messages: Sequence[Message], limit: int) -> RenderedPrompt | None:
    try:
        return render(messages, limit)
    except TokenLimitError:
        return None
