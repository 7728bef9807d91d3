"""Dropping the oldest part of a conversation: whole turns and whole calls, in large steps.

A turn begins with the user's messages; its steps are the messages of the model, each with the results of its
calls. A cut lies before a turn or before a step, so a call and its results stay or go together. The
instructions at the beginning stay, and so do the user's messages of the turn in which the cut lies: an agent
that has worked for hours on one question still has the question.

Cuts that are in use lie where the dropped bytes pass a multiple of a step (`coarse`). As a conversation
grows, the same cut holds until a whole step more has to go, and the prefix cache finds every turn between. A
cut at the first message that fits would move with each turn, and nothing would be found behind the
instructions.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

import msgspec

Message = Mapping[str, Any]
_INSTRUCTIONS: Final = ("system", "developer")


def cuts(messages: Sequence[Message], step_bytes: int) -> list[int]:
    """Return indices of messages that a shorter conversation may begin with, the longest one first.

    `messages` are OpenAI's. Those of `coarse` come first, for steps of `step_bytes`; behind the last of them
    every further cut is allowed. What the model has to answer, the last turn's question or the results of the
    last calls, is behind every cut.
    """
    begin = _beginning(messages)
    places = [i for i in range(begin + 1, len(messages)) if _may_begin(messages, i)]
    before = list(accumulate(map(size_bytes, messages[begin:]), initial=0))
    reached = coarse([before[i - begin] for i in places], step_bytes)
    rest = range(reached[-1] + 1 if reached else 0, len(places))
    return [places[number] for number in (*reached, *rest)]


def kept_from(messages: Sequence[Message], cut: int) -> list[Message]:
    """Return the conversation from `cut` on, with its instructions and the question of the turn."""
    question: list[Message] = []
    if messages[cut]["role"] != "user":
        end = next((i for i in range(cut - 1, -1, -1) if messages[i]["role"] == "user"), -1) + 1
        start = end
        while start > 0 and messages[start - 1]["role"] == "user":
            start -= 1
        question = list(messages[start:end])
    return [*messages[: _beginning(messages)], *question, *messages[cut:]]


def coarse(totals: Sequence[int], step: int) -> list[int]:
    """Return the indices at which the rising `totals` reach a new multiple of `step`."""
    return [i for i, (low, high) in enumerate(pairwise((0, *totals))) if high // step > low // step]


def size_bytes(message: Message) -> int:
    """Size of a message: a measure that stays the same from turn to turn and needs no tokenizer."""
    return len(msgspec.json.encode(message))


def _beginning(messages: Sequence[Message]) -> int:
    """Return the number of messages with instructions before all others."""
    return next((i for i, one in enumerate(messages) if one["role"] not in _INSTRUCTIONS), len(messages))


def _may_begin(messages: Sequence[Message], index: int) -> bool:
    role: str = messages[index]["role"]
    return role == "assistant" or (role == "user" and messages[index - 1]["role"] != "user")
