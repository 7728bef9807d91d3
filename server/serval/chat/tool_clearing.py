"""Clearing the oldest results of tools in a conversation, while its turns and calls stay.

A result's text is replaced by a placeholder, which tells the model that it may call the tool again. As in
`serval.chat.truncation`, results are cleared in large steps, so that the cleared ones are the same in many
turns after each other and the prefix cache finds what follows them.
"""

from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any, Final

from msgspec import Struct

from serval.chat.truncation import Message, coarse, size_bytes

PLACEHOLDER: Final = "[This result was removed to make room. Call the tool again if you need it.]"


class ClearToolUses(Struct, frozen=True):
    """The edit `clear_tool_uses_20250919` of the Messages API, with its defaults.

    One of the triggers is set. `clear_at_least` is in tokens; `inputs_of`: tools whose arguments are cleared
    too, None for all tools.
    """

    trigger_tokens: int | None = 100_000
    trigger_uses: int | None = None
    keep: int = 3
    clear_at_least: int = 0
    exclude: frozenset[str] = frozenset()
    inputs_of: frozenset[str] | None = frozenset()


class ToolUse(Struct, frozen=True):
    """A call and its result, by the indices of their messages; `call` is the number within its message."""

    message: int
    call: int
    result: int
    name: str


def tool_uses(messages: Sequence[Message]) -> list[ToolUse]:
    """Return the calls that have results, in the order of the results. `messages` are OpenAI's."""
    calls: dict[str, tuple[int, int, str]] = {}
    found: list[ToolUse] = []
    for index, message in enumerate(messages):
        for number, call in enumerate(message.get("tool_calls") or ()):
            calls[call["id"]] = (index, number, call["function"]["name"])
        if message["role"] == "tool" and message.get("tool_call_id") in calls:
            place, number, name = calls.pop(message["tool_call_id"])
            found.append(ToolUse(place, number, index, name))
    return found


def clearable(uses: Sequence[ToolUse], *, keep: int, exclude: Collection[str]) -> list[ToolUse]:
    """Return all but the last `keep` uses, without those of the tools in `exclude`."""
    return [use for use in uses[: max(len(uses) - keep, 0)] if use.name not in exclude]


def counts_by_bytes(messages: Sequence[Message], uses: Sequence[ToolUse], step_bytes: int) -> list[int]:
    """Return how many of `uses` to clear, so that one step of bytes goes, or two, and so on."""
    totals = list(accumulate(_saved_bytes(messages[use.result]) for use in uses))
    return [index + 1 for index in coarse(totals, step_bytes)]


def counts_by_number(uses: Sequence[ToolUse], step: int) -> list[int]:
    """Return how many of `uses` to clear, in steps of so many uses."""
    return list(range(step, len(uses) + 1, step))


def cleared(
    messages: Sequence[Message], uses: Sequence[ToolUse], *, inputs_of: Collection[str] = ()
) -> list[Message]:
    """Return the conversation without the results of `uses`, and the arguments of tools in `inputs_of`."""
    changed: list[Message] = list(messages)
    for use in uses:
        changed[use.result] = _replaced(messages[use.result])
        if use.name in inputs_of:
            message = changed[use.message]
            calls: list[Any] = list(message["tool_calls"])
            call = calls[use.call]
            calls[use.call] = {**call, "function": {**call["function"], "arguments": "{}"}}
            changed[use.message] = {**message, "tool_calls": calls}
    return changed


def _replaced(result: Message) -> Message:
    return {**result, "content": PLACEHOLDER}


def _saved_bytes(result: Message) -> int:
    return max(size_bytes(result) - size_bytes(_replaced(result)), 0)
