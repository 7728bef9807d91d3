"""The parsers as SGLang's own server uses them, through SGLang's classes."""

import json
from typing import Any

import pytest
from sglang.srt.entrypoints.openai.protocol import Function, Tool, ToolChoice, ToolChoiceFuncName
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.parser.reasoning_parser import ReasoningParser

from serval_sglang.plugin.parsers import register_parsers
from serval_testkit.longcat_text import KC, KO, TC, THINK, THINK_END, VO, call, pair, pieces_of

register_parsers()

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}


def tools(*, strict: bool = False) -> list[Tool]:
    weather = Function(name="get_weather", description="d", parameters=PARAMETERS, strict=strict)
    return [Tool(type="function", function=weather), Tool(type="function", function=Function(name="now"))]


TEXT = (
    "Let me see."
    + call("get_weather", pair("city", ' "Paris" '), pair("days", "3"))
    + call("foo")
    + call("now")
)
CALLS = [("get_weather", '{"city": " \\"Paris\\" ", "days": 3}'), ("foo", "{}"), ("now", "{}")]


def streamed(text: str, size: int) -> tuple[str, list[tuple[str, str]]]:
    parser = FunctionCallParser(tools(), "longcat")
    results = [parser.parse_stream_chunk(piece) for piece in pieces_of(text, size)]
    results.append(parser.parse_stream_end())
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for _, items in results:
        for item in items:
            if item.name:
                assert item.tool_index not in names
                names[item.tool_index] = item.name
            arguments[item.tool_index] = arguments.get(item.tool_index, "") + item.parameters
    return "".join(content for content, _ in results), [
        (names[index], arguments[index]) for index in sorted(names)
    ]


class TestToolCalls:
    def test_detector_parses_whole_reply(self) -> None:
        content, items = FunctionCallParser(tools(), "longcat").parse_non_stream(TEXT)
        assert content == "Let me see."
        assert [(item.name, item.parameters) for item in items] == CALLS
        assert [item.tool_index for item in items] == [0, 1, 2]

    @pytest.mark.parametrize("size", [0, 1, 7])
    def test_detector_parses_streamed_reply(self, size: int) -> None:
        assert streamed(TEXT, size) == ("Let me see.", CALLS)

    def test_detector_flushes_withheld_text_at_the_end(self) -> None:
        assert streamed("a <", 1) == ("a <", [])
        assert streamed(f"{TC}get_weather\n{KO}city{KC}\n{VO}Par", 1) == (
            "",
            [("get_weather", '{"city": "Par"}')],
        )

    def test_detector_returns_text_without_call_as_content(self) -> None:
        assert FunctionCallParser(tools(), "longcat").parse_non_stream(" hm ") == (" hm ", [])

    def test_detector_recognises_call_markers(self) -> None:
        parser = FunctionCallParser(tools(), "longcat")
        assert parser.owns_tool_format()
        assert parser.has_tool_call(TEXT)
        assert not parser.has_tool_call("text")


class TestConstraints:
    def constraint(self, choice: Any, *, strict: bool = False, **options: bool) -> Any:
        parser = FunctionCallParser(tools(strict=strict), "longcat")
        kind, tag = parser.get_structure_constraint(choice, **options)
        assert kind == "structural_tag"
        return tag.model_dump(by_alias=True)["format"]

    def test_structural_tag_for_required_and_named_choice(self) -> None:
        required = self.constraint("required", parallel_tool_calls=False)
        assert (required["type"], required["stop_after_first"]) == ("tags_with_separator", True)
        assert [tag["begin"] for tag in required["tags"]] == [f"{TC}get_weather\n", f"{TC}now\n"]
        named = self.constraint(ToolChoice(function=ToolChoiceFuncName(name="now")))
        assert [tag["begin"] for tag in named["tags"]] == [f"{TC}now\n"]

    def test_structural_tag_for_auto_with_strict_tool(self) -> None:
        assert self.constraint("auto", strict=True)["type"] == "triggered_tags"
        assert self.constraint("auto", strict=True, thinking_mode=True)["type"] == "sequence"

    def test_structural_tag_is_absent_for_auto_without_strict_tool(self) -> None:
        assert FunctionCallParser(tools(), "longcat").get_structure_constraint("auto") is None

    def test_structural_tag_raises_value_error_for_unenforceable_schema(self) -> None:
        odd = Function(name="odd", parameters={"properties": {"a": {"not": {}}}}, strict=True)
        parser = FunctionCallParser([Tool(type="function", function=odd)], "longcat")
        with pytest.raises(ValueError, match="tools/odd/parameters/properties/a/not"):
            parser.detector.get_structural_tag([Tool(type="function", function=odd)], "required")


def reasoned(text: str, size: int, **options: Any) -> tuple[str, str]:
    parser = ReasoningParser("longcat", **options)
    results = [parser.parse_stream_chunk(piece) for piece in pieces_of(text, size)]
    end = parser.parse_stream_end()
    reasoning = "".join(piece or "" for piece, _ in results) + (end[0] or "")
    return reasoning, "".join(piece or "" for _, piece in results) + (end[1] or "")


class TestReasoning:
    CASES = (
        (f"\nhm\nso\n{THINK_END}\nyes \n", True, ("hm\nso", "yes \n")),
        (f"{THINK}\nhm\n{THINK_END}\n\nyes", False, ("hm", "yes")),
        (f"{THINK}\nhm\n{THINK_END}\n\nyes", True, ("hm", "yes")),
        (f"hm\n{call('now')}", True, ("hm", call("now"))),
        ("hm", True, ("hm", "")),
        (" yes < no", False, ("", " yes < no")),
        (f"a {THINK}b{THINK_END}", False, ("", f"a {THINK}b{THINK_END}")),
        (f"hm </longcat_thin{THINK_END}", True, ("hm </longcat_thin", "")),
        ("hm <", True, ("hm <", "")),
        (" \n", False, ("", " \n")),
        ("<longcat_th", False, ("", "<longcat_th")),
    )

    @pytest.mark.parametrize("size", [0, 1, 3])
    @pytest.mark.parametrize("withhold", [False, True])
    @pytest.mark.parametrize(("text", "forced", "expected"), CASES)
    def test_reasoning_detector_splits_block(
        self, *, text: str, forced: bool, expected: tuple[str, str], withhold: bool, size: int
    ) -> None:
        options = {"force_reasoning": forced, "stream_reasoning": not withhold}
        whole = ReasoningParser("longcat", **options).parse_non_stream(text)
        assert tuple(part or "" for part in whole) == expected
        assert reasoned(text, size, **options) == expected

    def test_reasoning_detector_withholds_reasoning_until_block_ends(self) -> None:
        parser = ReasoningParser("longcat", stream_reasoning=False, force_reasoning=True)
        assert parser.parse_stream_chunk("hm ") == ("", "")
        assert parser.parse_stream_chunk(f"so{THINK_END}yes") == ("hm so", "yes")

    def test_both_detectors_parse_thinking_reply(self) -> None:
        reasoning, rest = reasoned(f"hm\n{THINK_END}\n{TEXT}", 5, force_reasoning=True)
        assert reasoning == "hm"
        assert streamed(rest, 5) == ("Let me see.", CALLS)
        assert json.loads(CALLS[0][1])["days"] == 3
