"""Properties of the parser for any text and any cuts: same message, no exception, valid arguments."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serval.tools.events import ToolCallStart
from serval.tools.message import assemble
from serval_testkit.longcat_text import MARKERS, call, events_of, pair, read, tool

TOOLS = [
    tool(
        "f",
        text={"type": "string"},
        number={"type": "number"},
        whole={"type": "integer"},
        thing={"type": "object"},
        things={"type": "array"},
        mixed={"type": ["string", "null", "integer"]},
        listed={"enum": ["a", 1, None]},
        free={},
    ),
    tool("now"),
]
FRAGMENTS = [marker[:end] for marker in MARKERS for end in (1, 2, 9, len(marker) - 1)]
KEYS = ["text", "number", "whole", "thing", "things", "mixed", "listed", "free", "unknown", ""]
VALUES = [
    "1",
    "1.0",
    '"',
    "\\",
    "{",
    "}",
    '{"a": ["b"]}',
    "{'a': 1}",
    "null",
    "NaN",
    "\ud800",
    "é",
    "😀",
    "\x00",
]
NOISE = [
    "\n",
    " ",
    "f",
    "now",
    "functions.f",
    "foo",
    '{"name": "f", "arguments": {"text": "',
    '"}}',
    "[" * 200,
]
pieces_of_output = st.sampled_from([*MARKERS, *MARKERS, *FRAGMENTS, *VALUES, *NOISE, *KEYS]) | st.text(
    max_size=4
)
pairs = st.builds(pair, st.sampled_from(KEYS), st.lists(pieces_of_output, max_size=4).map("".join))
calls = st.builds(call, st.sampled_from(["f", "now", "foo"]), pairs, pairs)
outputs = st.lists(st.one_of(pieces_of_output, pairs, calls), max_size=24).map("".join)


def cut(text: str, cuts: list[int]) -> list[str]:
    bounds = sorted({0, len(text), *(position % (len(text) + 1) for position in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


@settings(max_examples=600, deadline=None)
@given(
    text=outputs,
    cuts=st.lists(st.integers(0, 10_000), max_size=30),
    every=st.integers(1, 14),
    thinking=st.booleans(),
    finish_reason=st.sampled_from(["stop", "length"]),
    tools=st.sampled_from([TOOLS, TOOLS, []]),
)
def test_parser_message_does_not_depend_on_cuts(
    *, text: str, cuts: list[int], every: int, thinking: bool, finish_reason: str, tools: list[Any]
) -> None:
    whole = read(text, tools, thinking=thinking, finish_reason=finish_reason)
    in_steps = read(text, tools, thinking=thinking, finish_reason=finish_reason, size=every)
    at_random = assemble(events_of(cut(text, cuts), tools, thinking=thinking, finish_reason=finish_reason))
    assert whole == in_steps == at_random


@settings(max_examples=300, deadline=None)
@given(text=outputs, at=st.integers(0, 10_000), thinking=st.booleans())
def test_parser_calls_that_look_complete_in_cut_text_are_those_of_whole_text(
    text: str, at: int, thinking: bool
) -> None:
    whole = read(text, TOOLS, thinking=thinking).calls
    cut_off = read(text[: at % (len(text) + 1)], TOOLS, thinking=thinking, finish_reason="stop_string").calls
    complete = [each for each in cut_off if is_json(each[1])]
    assert complete == list(whole[: len(complete)])
    assert len(cut_off) - len(complete) <= 1


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@settings(max_examples=600, deadline=None)
@given(text=outputs, every=st.integers(1, 14), thinking=st.booleans())
def test_parser_arguments_of_finished_message_are_json_objects(text: str, every: int, thinking: bool) -> None:
    events = events_of([text[i : i + every] for i in range(0, len(text), every)], TOOLS, thinking=thinking)
    message = assemble(events)
    starts = [event for event in events if isinstance(event, ToolCallStart)]
    assert [start.index for start in starts] == list(range(len(message.calls)))
    for name, arguments in message.calls:
        assert name.strip()
        assert isinstance(json.loads(arguments, parse_constant=pytest.fail), dict)
        arguments.encode()
    for text_field in (message.content, message.reasoning):
        assert text_field is None or text_field.encode()
