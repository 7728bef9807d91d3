"""Assembling an assistant message from a parser's events."""

from collections.abc import Iterable
from dataclasses import dataclass

from serval.tools.events import ArgumentsDelta, ContentDelta, Event, ReasoningDelta, ToolCallStart


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """`calls` are pairs of a name and arguments (JSON text); empty `content` and `reasoning` are None."""

    content: str | None
    reasoning: str | None
    calls: tuple[tuple[str, str], ...]


def assemble(events: Iterable[Event]) -> AssistantMessage:
    """Join the events of one turn, in order."""
    content: list[str] = []
    reasoning: list[str] = []
    names: list[str] = []
    arguments: list[list[str]] = []
    for event in events:
        match event:
            case ContentDelta(text):
                content.append(text)
            case ReasoningDelta(text):
                reasoning.append(text)
            case ToolCallStart(_, name):
                names.append(name)
                arguments.append([])
            case ArgumentsDelta(index, text):
                arguments[index].append(text)
    return AssistantMessage(
        content="".join(content) or None,
        reasoning="".join(reasoning) or None,
        calls=tuple(zip(names, map("".join, arguments), strict=True)),
    )
