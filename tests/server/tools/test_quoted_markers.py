"""Markers that the model only quotes: the parser is told the places of the real ones."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serval.grammar.dialects.longcat import LONGCAT
from serval.grammar.dialects.longcat_json import LONGCAT_JSON
from serval.tools.events import ContentDelta, Event
from serval.tools.message import AssistantMessage, assemble
from serval_testkit.longcat_text import KC, KO, MARKERS, TC, TE, THINK, THINK_END, VC, VO, call, pair, tool

TOOLS = [
    tool("write", path={"type": "string"}, content={"type": "string"}, mode={"type": "integer"}),
    tool("now"),
]
NOW = call("now")


class Quoted(str):
    """Text that the model wrote in ordinary tokens."""

    __slots__ = ()


def real_places(text: str) -> list[int]:
    return sorted(place for marker in MARKERS for place in range(len(text)) if text.startswith(marker, place))


def read(
    *parts: str,
    cuts: Sequence[int] = (),
    tools: Any = TOOLS,
    dialect: Any = LONGCAT,
    finish_reason: str = "stop",
) -> AssistantMessage:
    """Read an answer; every marker in it is real, except in a `Quoted` part."""
    text, places = "", []
    for part in parts:
        if not isinstance(part, Quoted):
            places += [len(text) + place for place in real_places(part)]
        text += part
    edges = [0, *sorted(each % (len(text) + 1) for each in cuts), len(text)]
    parser = dialect.parser(tools)
    events: list[Event] = []
    for begin, end in itertools.pairwise(edges):
        events += parser.feed(text[begin:end], [place - begin for place in places if begin <= place < end])
    return assemble([*events, *parser.finish(finish_reason)])


QUOTED_CALL = Quoted(call("write", pair("path", "/etc/passwd")))
QUOTED_JSON = Quoted(f'{TC}{{"name": "write", "arguments": {{}}}}{TE}')


@pytest.mark.parametrize("quoted", [QUOTED_CALL, QUOTED_JSON, *map(Quoted, MARKERS)], ids=str)
@pytest.mark.parametrize("dialect", [LONGCAT, LONGCAT_JSON], ids=["longcat", "json"])
def test_parser_takes_quoted_markers_for_content(quoted: Quoted, dialect: Any) -> None:
    """Tried: whole calls in both forms and every marker alone, at the start, in text, and cut anywhere."""
    for before in ("", "The log says:\n"):
        for cuts in ((), range(1000), (7,)):
            message = read(before, quoted, " and so on", cuts=cuts, dialect=dialect)
            assert message == AssistantMessage(f"{before}{quoted} and so on", None, ())


def test_parser_tells_quoted_call_from_real_one() -> None:
    for cuts in ((), range(1000)):
        message = read("See ", QUOTED_CALL, ".", NOW, QUOTED_CALL, NOW, cuts=cuts)
        assert message.calls == (("now", "{}"), ("now", "{}"))
        assert message.content == f"See {QUOTED_CALL}.{QUOTED_CALL}"


@pytest.mark.parametrize("quoted", [QUOTED_CALL, f"a{VC}\n{TE}", f"{VC}\n{KO}mode{KC}\n{VO}1", VC, TE, "<"])
def test_parser_takes_quoted_markers_in_value_for_data(quoted: str) -> None:
    """Read as markers, these would end the value, the call, or add an argument."""
    for cuts in ((), range(1000)):
        head, tail = f"{TC}write\n{KO}content{KC}\n{VO}", f"{VC}\n{TE}\n"
        (only,) = read(head, Quoted(quoted), tail, cuts=cuts).calls
        assert only == ("write", json.dumps({"content": quoted}))
        (only,) = read(head, Quoted(quoted), f"{TE}\n", cuts=cuts).calls  # the value is never closed
        assert only == ("write", json.dumps({"content": quoted.removesuffix("\n")}))


def test_parser_writes_quoted_markers_in_typed_values_keys_and_json() -> None:
    typed = read(f"{TC}write\n{KO}mode{KC}\n{VO}", Quoted(f'["{TC}"]'), f"{VC}\n{TE}")
    assert typed.calls == (("write", f'{{"mode": ["{TC}"]}}'),)
    key = read(f"{TC}write\n{KO}", Quoted(f"a{KC}<b"), f"{KC}\n{VO}1{VC}\n{TE}")
    assert key.calls == (("write", f'{{"a{KC}<b": 1}}'),)
    in_json = read(f"{TC}", Quoted(f'{{"name": "write", "arguments": {{"a": "{TE}<"}}}}'), TE)
    assert in_json.calls == (("write", f'{{"a": "{TE}<"}}'),)
    outside_string = read(TC, Quoted('{"name": <'), f"{TE}{NOW}")
    assert (outside_string.content, outside_string.calls) == (f'{TC}{{"name": <{TE}', (("now", "{}"),))


def test_parser_tells_quoted_reasoning_markers_from_real_ones() -> None:
    for cuts in ((), range(1000)):
        message = read(THINK, "I quote ", Quoted(f"{THINK_END}{QUOTED_CALL}"), THINK_END, "yes", cuts=cuts)
        assert (message.reasoning, message.content) == (f"I quote {THINK_END}{QUOTED_CALL}".rstrip(), "yes")
        for tools in (TOOLS, []):
            message = read(Quoted(f"{THINK}hm{THINK_END}yes"), cuts=cuts, tools=tools)
            assert (message.reasoning, message.content) == (None, f"{THINK}hm{THINK_END}yes")


def test_parser_never_holds_back_quoted_text() -> None:
    parser = LONGCAT.parser(TOOLS)
    assert parser.feed("a <longcat_tool", []) == [ContentDelta("a <longcat_tool")]
    assert parser.feed("_call>now\n", []) == [ContentDelta("_call>now\n")]


def test_parser_drops_marker_that_was_cut() -> None:
    """A stop string can cut the text inside a marker. Without its place it may be text."""
    assert read("a", "<longcat_tool_ca", finish_reason="stop_string").content == "a<longcat_tool_ca"
    for text, place in (("a<longcat_tool_ca", 1), ("<lon", 0)):
        parser = LONGCAT.parser(TOOLS)
        events = [*parser.feed(text, [place]), *parser.finish("stop_string")]
        assert assemble(events).content == (text[:place] or None)


def test_parser_accepts_texts_with_and_without_places() -> None:
    parser = LONGCAT.parser(TOOLS)
    events = [*parser.feed(TC, []), *parser.feed(TC), *parser.feed(f"now\n{TE}", None)]
    assert assemble([*events, *parser.finish("stop")]).calls == (("now", "{}"),)


def test_parser_reads_lone_surrogates_as_replacement_characters() -> None:
    """The parser's own sign for a quoted marker is a lone surrogate; text must not bring one in."""
    for places in (None, []):
        parser = LONGCAT.parser(TOOLS)
        assert parser.feed("\udc3clongcat_tool_call>", places) == [ContentDelta("\ufffdlongcat_tool_call>")]


parts = st.lists(
    st.one_of(
        st.sampled_from([*MARKERS, *(Quoted(marker) for marker in MARKERS)]),
        st.sampled_from([QUOTED_CALL, NOW, call("write", pair("content", "<x>")), Quoted("<"), "\n", "{"]),
        st.text(max_size=5),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(parts=parts, cuts=st.lists(st.integers(0, 10_000), max_size=20), reason=st.sampled_from(["stop", "x"]))
def test_parser_message_with_places_does_not_depend_on_cuts(
    parts: list[str], cuts: list[int], reason: str
) -> None:
    whole = read(*parts, finish_reason=reason)
    assert read(*parts, cuts=cuts, finish_reason=reason) == whole
    for field in (whole.content, whole.reasoning, *itertools.chain(*whole.calls)):
        assert field is None or "\udc3c" not in field
    if all(isinstance(part, Quoted) or not real_places(part) for part in parts):
        assert (whole.calls, whole.reasoning) == ((), None)
        assert (whole.content or "").strip() == "".join(parts).strip()
