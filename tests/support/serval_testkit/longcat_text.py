"""Writing model output in LongCat's format, and reading it with any cut, for the tests of the tool parser."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serval.grammar.dialects.longcat import LONGCAT
from serval.tools.events import Event
from serval.tools.message import AssistantMessage, assemble

TC, TE = "<longcat_tool_call>", "</longcat_tool_call>"
KO, KC = "<longcat_arg_key>", "</longcat_arg_key>"
VO, VC = "<longcat_arg_value>", "</longcat_arg_value>"
THINK, THINK_END = "<longcat_think>", "</longcat_think>"
MARKERS = (TC, TE, KO, KC, VO, VC, THINK, THINK_END)


def tool(name: str, /, **properties: Any) -> dict[str, Any]:
    """Return an OpenAI tool whose parameters have these properties."""
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": properties}},
    }


def pair(key: str, value: str) -> str:
    return f"{KO}{key}{KC}\n{VO}{value}{VC}\n"


def call(name: str, *pairs: str) -> str:
    """Return one call as the model is trained to write it."""
    return f"{TC}{name}\n{''.join(pairs)}{TE}\n"


def pieces_of(text: str, size: int) -> Iterator[str]:
    """Yield `text` in pieces of `size` characters; 0 means one piece."""
    yield from (text[start : start + size] for start in range(0, len(text), size)) if size else [text]


def events_of(
    pieces: Iterator[str] | Sequence[str],
    tools: Sequence[Mapping[str, Any]],
    *,
    finish_reason: str = "stop",
    thinking: bool = False,
) -> list[Event]:
    parser = LONGCAT.parser(tools, thinking=thinking)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.finish(finish_reason)


def read(
    text: str,
    tools: Sequence[Mapping[str, Any]],
    *,
    size: int = 0,
    finish_reason: str = "stop",
    thinking: bool = False,
) -> AssistantMessage:
    return assemble(
        events_of(list(pieces_of(text, size)), tools, finish_reason=finish_reason, thinking=thinking)
    )
