"""Rules of the tool-call parser, one test each; `test_recorded_cases` has the outputs behind them."""

import json

import pytest

from serval.grammar.dialects.longcat import LONGCAT
from serval.tools.events import ArgumentsDelta, ContentDelta, ReasoningDelta, ToolCallStart
from serval.tools.message import assemble
from serval_testkit.longcat_text import (
    KC,
    KO,
    TC,
    TE,
    THINK,
    THINK_END,
    VC,
    VO,
    call,
    pair,
    pieces_of,
    read,
    tool,
)

TOOLS = [
    tool("write", path={"type": "string"}, content={"type": "string"}, mode={"type": "integer"}),
    tool("now"),
    tool("functions.odd"),
]
NOW = call("now")


def calls_of(text: str, finish_reason: str = "stop") -> list[tuple[str, str]]:
    """Return the calls in `text`, read whole and character by character with the same result."""
    whole = read(text, TOOLS, finish_reason=finish_reason)
    assert read(text, TOOLS, finish_reason=finish_reason, size=1) == whole
    return list(whole.calls)


def content_of(text: str) -> str | None:
    whole = read(text, TOOLS)
    assert read(text, TOOLS, size=1) == whole
    return whole.content


class TestContent:
    @pytest.mark.parametrize(
        "text", ["a < b", "a <", "<", "<longcat_tool", "x <longcat_tool_call", "<longcat_toolbox>"]
    )
    def test_parser_keeps_text_that_begins_like_marker(self, text: str) -> None:
        assert content_of(text) == text

    def test_parser_holds_back_only_possible_marker(self) -> None:
        parser = LONGCAT.parser(TOOLS)
        assert parser.feed("see <long") == [ContentDelta("see ")]
        assert parser.feed("cat_") == []
        assert parser.feed("er> and") == [ContentDelta("<longcat_er> and")]

    def test_parser_drops_whitespace_alone_before_call(self) -> None:
        assert content_of("\n \n" + NOW) is None
        assert content_of(" hm \n" + NOW) == " hm \n"

    def test_parser_keeps_whitespace_alone_only_without_tools(self) -> None:
        assert content_of(" \n") is None
        assert read(" \n", [], size=1).content == " \n"

    def test_parser_without_tools_keeps_markers(self) -> None:
        assert read(NOW, [], size=1).content == NOW

    def test_parser_drops_whitespace_after_call(self) -> None:
        assert content_of(f"a{NOW}\n\n {NOW} b \n{NOW}\n") == "ab \n"

    @pytest.mark.parametrize(
        "text",
        [
            "Write `<longcat_tool_call>` to call a tool.\nThen its name.",
            "the marker is <longcat_tool_call>, you know",
            "the marker is <longcat_tool_call> :)",
        ],
    )
    def test_parser_keeps_opening_marker_in_prose(self, text: str) -> None:
        assert content_of(text + "\n") == text + "\n"
        assert calls_of(text + "\n" + NOW) == [("now", "{}")]

    def test_parser_replaces_lone_surrogates(self) -> None:
        message = read("a\ud800b" + call("write", pair("path", "\udfff"), pair("mode", '"\\ud83d"')), TOOLS)
        assert message.content == "a\ufffdb"
        assert message.calls == (("write", '{"path": "\ufffd", "mode": "\ufffd"}'),)


class TestName:
    @pytest.mark.parametrize("end", ["\n", KO, TE, TC])
    def test_parser_reports_name_once_and_whole(self, end: str) -> None:
        parser = LONGCAT.parser(TOOLS)
        assert parser.feed(TC + "wri") == []
        assert parser.feed("te") == []
        assert parser.feed(end)[0] == ToolCallStart(0, "write")
        assert not any(isinstance(event, ToolCallStart) for event in parser.feed(f"{KO}path{KC}{VO}x"))

    @pytest.mark.parametrize("name", ["now", "functions.now", " now ", "\n\nnow", "now\r"])
    def test_parser_strips_prefix_and_whitespace_of_name(self, name: str) -> None:
        assert calls_of(f"{TC}{name}\n{TE}") == [("now", "{}")]

    def test_parser_keeps_prefix_of_declared_name(self) -> None:
        assert calls_of(call("functions.odd")) == [("functions.odd", "{}")]

    @pytest.mark.parametrize(
        ("name", "reported"),
        [
            ("foo", "foo"),
            ("Write", "Write"),  # another case
            ("default_api.write", "default_api.write"),  # another namespace
            ("functions.foo", "functions.foo"),
            ("mcp/server:tool", "mcp/server:tool"),
            ("获取天气", "获取天气"),
        ],
    )
    def test_parser_reports_call_of_undeclared_tool_as_written(self, name: str, reported: str) -> None:
        block = call(name, pair("path", "a.py"), pair("days", "3"), pair("opts", '{"a": [1]}'))
        expected = (reported, '{"path": "a.py", "days": 3, "opts": {"a": [1]}}')
        assert calls_of(block) == [expected]
        assert content_of(block) is None
        assert calls_of(f"Let me see.{block}") == [expected]
        assert content_of(f"Let me see.{block}") == "Let me see."
        assert calls_of(NOW + block + NOW) == [("now", "{}"), expected, ("now", "{}")]
        assert calls_of(f"{TC}{name}") == [(reported, "{}")]

    @pytest.mark.parametrize(
        "block",
        [
            f"{TC}not a tool!\n{pair('path', 'x')}{TE}",
            f"{TC}not a tool!{TE}",
            f"{TC}` and `{TE}",
            f"{TC}...{TE}",
            f"{TC}{TE}",
            f"{TC}\n{KO}path{KC}\n{VO}x{VC}\n{TE}",
            TC,
        ],
    )
    def test_parser_keeps_block_without_name_as_content(self, block: str) -> None:
        assert calls_of(block) == []
        assert content_of(block) == block
        if block.endswith(TE):
            assert calls_of(NOW + block + NOW) == [("now", "{}"), ("now", "{}")]
            assert content_of("a" + block + "b") == f"a{block}b"

    def test_parser_numbers_calls_in_order(self) -> None:
        parser = LONGCAT.parser(TOOLS)
        events = parser.feed(call("foo") + NOW + call("write") + NOW)
        assert [event.index for event in events if isinstance(event, ToolCallStart)] == [0, 1, 2, 3]

    def test_parser_reads_flat_tools_and_ignores_broken_ones(self) -> None:
        flat = {"type": "function", "name": "now", "parameters": {}}
        broken = [
            {},
            {"function": None},
            {"function": {"name": 3}},
            {"function": {"name": "x", "parameters": 3}},
        ]
        assert read(NOW + call("x", pair("a", "1")), [*broken, flat]).calls == (
            ("now", "{}"),
            ("x", '{"a": 1}'),
        )


class TestValue:
    @pytest.mark.parametrize(
        "value",
        [
            f"a{TE}b",
            f"a{TE}",
            f"{TE}{TE}\n",
            f"a{VC}b",
            f"{VC}{VC}",
            f"{VC} {VO}",
            f"a{VC}\n{TC}now\n",
            f"a{VC}</longcat_tool",
            f"a{VC} <",
            KO,
            KC,
            VO,
            TC,
            f"{TC}now\n{TE}\n",
            f"{KO}path{KC}\n{VO}x",
            f"{THINK}{THINK_END}",
            "</longcat_arg_value",
            "<",
            " \n ",
            "&lt;![CDATA[]]>",
            "\u2028\x00\x7f\\",
        ],
    )
    def test_parser_reads_marker_in_value_as_data_unless_it_closes(self, value: str) -> None:
        for text in (call("write", pair("content", value)), f"{TC}write\n{pair('content', value)}"):
            ((_, arguments),) = calls_of(text)
            assert json.loads(arguments) == {"content": value}

    def test_parser_streams_string_value(self) -> None:
        parser = LONGCAT.parser(TOOLS)
        parser.feed(f"{TC}write\n{KO}content{KC}\n")
        assert parser.feed(VO) == [ArgumentsDelta(0, '{"content": "')]
        assert parser.feed("one ") == [ArgumentsDelta(0, "one ")]
        assert parser.feed('"two"</long') == [ArgumentsDelta(0, r"\"two\"")]
        assert parser.feed("er>") == [ArgumentsDelta(0, "</longer>")]
        assert parser.feed(f"{VC}\n") == []
        assert parser.feed(TE) == [ArgumentsDelta(0, '"}')]

    def test_parser_holds_back_text_after_closing_call_marker(self) -> None:
        parser = LONGCAT.parser(TOOLS)
        parser.feed(f"{TC}write\n{KO}content{KC}\n{VO}")
        assert parser.feed(f"a{TE}b") == [ArgumentsDelta(0, "a")]
        assert parser.feed(f"c{TE}d") == [ArgumentsDelta(0, f"{TE}bc")]
        assert parser.feed(f"{VC}{TE}") == [ArgumentsDelta(0, f'{TE}d"}}')]

    def test_parser_reports_other_values_once_complete(self) -> None:
        parser = LONGCAT.parser(TOOLS)
        events = [
            event
            for piece in pieces_of(call("write", pair("mode", "123456"), pair("path", "")), 1)
            for event in parser.feed(piece)
        ]
        assert events == [
            ToolCallStart(0, "write"),
            ArgumentsDelta(0, '{"mode": 123456'),
            ArgumentsDelta(0, ', "path": "'),
            ArgumentsDelta(0, '"}'),
        ]

    def test_parser_ends_unclosed_value_at_last_closing_call_marker(self) -> None:
        head = f"{TC}write\n{KO}content{KC}\n{VO}"
        assert calls_of(f"{head}a{TE}b{TE}\n") == [("write", f'{{"content": "a{TE}b"}}')]
        assert calls_of(f"{head}a{TE}\ndone") == [("write", '{"content": "a"}')]
        assert content_of(f"{head}a{TE}\ndone") == "done"
        assert calls_of(f"{head}a{TE}\n{TC}now\n") == [("write", '{"content": "a"}'), ("now", "{}")]
        assert calls_of(f"{head}a{TE}\n{head}b") == [
            ("write", '{"content": "a"}'),
            ("write", '{"content": "b"}'),
        ]
        assert calls_of(f"{TC}foo\n{KO}content{KC}\n{VO}a{TE}\n{TC}now") == [
            ("foo", '{"content": "a"}'),
            ("now", "{}"),
        ]

    @pytest.mark.parametrize(
        ("written", "read_as"),
        [
            ("Paris\n", "Paris"),
            ("Paris", "Paris"),
            ("Paris\n\n", "Paris\n"),
            ("\n", ""),
            ("a\nb\n", "a\nb"),
            (f"a{TE}\n", f"a{TE}"),  # the marker is data, because another one follows
            ("Paris\n ", "Paris\n "),
        ],
    )
    def test_parser_drops_line_break_of_format_from_unclosed_value(self, written: str, read_as: str) -> None:
        head = f"{TC}write\n{KO}path{KC}\n{VO}"
        for end in (TE, f"{TE}\n", f"{TE}\n\n"):
            assert json.loads(calls_of(f"{head}{written}{end}")[0][1]) == {"path": read_as}
        number = calls_of(f"{TC}write\n{KO}mode{KC}\n{VO}3\n{TE}\n")
        assert number == [("write", '{"mode": 3}')]

    @pytest.mark.parametrize("written", ["Paris\n", "\n", "a\nb\n\n", f"a\n{TE}\n"])
    def test_parser_keeps_line_break_of_closed_value(self, written: str) -> None:
        assert json.loads(calls_of(call("write", pair("path", written)))[0][1]) == {"path": written}
        head = f"{TC}write\n{KO}path{KC}\n{VO}"
        assert calls_of(f"{head}Paris\n") == [("write", r'{"path": "Paris\n"}')]


class TestPairs:
    def test_parser_keeps_first_of_repeated_keys(self) -> None:
        text = call("write", pair("path", "a"), pair("path", "b"), pair("mode", "1"), pair("mode", "2"))
        assert calls_of(text) == [("write", '{"path": "a", "mode": 1}')]

    @pytest.mark.parametrize(
        "orphan",
        [
            f"{KO}path{KC}\n",
            f"{KO}path",
            f"{KO}path\n",
            f"{KO}{KC}{VO}x{VC}\n",
            f"{KO}{KC}",
        ],
    )
    def test_parser_drops_incomplete_pair(self, orphan: str) -> None:
        assert calls_of(call("write", orphan)) == [("write", "{}")]
        assert calls_of(call("write", orphan, pair("mode", "1"))) == [("write", '{"mode": 1}')]
        assert calls_of(call("write", pair("mode", "1"), orphan)) == [("write", '{"mode": 1}')]

    @pytest.mark.parametrize("noise", ["noise", f"{VO}x{VC}", f"{VC}\n", "\n"])
    def test_parser_drops_text_before_first_pair(self, noise: str) -> None:
        assert calls_of(call("write", noise, pair("mode", "1"))) == [("write", '{"mode": 1}')]

    def test_parser_tolerates_missing_opening_value_marker(self) -> None:
        assert calls_of(call("write", f"{KO}path{KC}\nx y{VC}\n")) == [("write", '{"path": "x y"}')]
        assert calls_of(call("write", f"{KO}path{KC}{VC}\n")) == [("write", '{"path": ""}')]

    def test_parser_tolerates_missing_closing_key_marker(self) -> None:
        assert calls_of(call("write", f"{KO}path\n{VO}x{VC}\n")) == [("write", '{"path": "x"}')]

    @pytest.mark.parametrize("space", ["", " ", "\n\n", "\t\r\n"])
    def test_parser_allows_any_whitespace_between_markers(self, space: str) -> None:
        pairs = f"{KO}path{KC}{space}{VO}x{VC}{space}{KO}mode{KC}{space}{VO}1{VC}{space}"
        text = f"{TC}write{space}{pairs}{TE}{space}"
        assert calls_of(text) == [("write", '{"path": "x", "mode": 1}')]

    def test_parser_ends_unclosed_call_at_next_call(self) -> None:
        assert calls_of(f"{TC}now\n{TC}write\n{pair('mode', '1')}{TE}") == [
            ("now", "{}"),
            ("write", '{"mode": 1}'),
        ]

    def test_parser_reads_undeclared_key_as_json_or_text(self) -> None:
        text = call("write", pair("x", "1"), pair(" y ", "text"), pair("z", '"q"'))
        assert calls_of(text) == [("write", '{"x": 1, "y": "text", "z": "q"}')]

    def test_parser_strips_key_of_additional_properties(self) -> None:
        parameters = {"type": "object", "additionalProperties": {"type": "string"}}
        tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
        assert read(call("f", pair(" k ", "5")), tools).calls == (("f", '{"k": "5"}'),)

    def test_parser_keeps_whitespace_of_declared_key(self) -> None:
        tools = [tool("f", **{" k ": {"type": "string"}})]
        assert read(call("f", pair(" k ", "1")), tools).calls == (("f", '{" k ": "1"}'),)


class TestFinish:
    HEAD = f"{TC}write\n{KO}path{KC}\n{VO}"
    # Text, and its calls if the model ended its turn there, or if the text was cut there.
    CUTS = (
        (f"{TC}wri", [("wri", "{}")], []),
        (f"{TC}write", [("write", "{}")], []),
        (f"{TC}write\n", [("write", "{}")], [("write", "{")]),
        (f"{TC}write\n{KO}pa", [("write", "{}")], [("write", "{")]),
        (f"{TC}write\n{KO}path{KC}\n", [("write", "{}")], [("write", "{")]),
        (f"{TC}write\n{TE[:9]}", [("write", "{}")], [("write", "{")]),
        (f"{TC}write\n{KO}mode{KC}\n{VO}12", [("write", '{"mode": 12}')], [("write", "{")]),
        (f"{TC}write\n{KO}mode{KC}\n{VO}12{VC}", [("write", '{"mode": 12}')], [("write", '{"mode": 12')]),
        (HEAD, [("write", '{"path": ""}')], [("write", '{"path": "')]),
        (f"{HEAD}a", [("write", '{"path": "a"}')], [("write", '{"path": "a')]),
        (f"{HEAD}a<", [("write", '{"path": "a<"}')], [("write", '{"path": "a<')]),
        (f"{HEAD}a{VC[:12]}", [("write", '{"path": "a"}')], [("write", '{"path": "a')]),
        (f"{HEAD}a{VC}", [("write", '{"path": "a"}')], [("write", '{"path": "a"')]),
        (f"{HEAD}a{VC}\n{TE[:5]}", [("write", '{"path": "a"}')], [("write", '{"path": "a"')]),
        # The value may have gone on after the closing marker.
        (f"{HEAD}a{TE}", [("write", '{"path": "a"}')], [("write", '{"path": "a')]),
        (f"{HEAD}a{TE} b", [("write", '{"path": "a"}')], [("write", '{"path": "a')]),
    )

    @pytest.mark.parametrize("before", ["", call("write", pair("mode", "1"))], ids=["first", "second"])
    @pytest.mark.parametrize(("text", "complete", "cut"), CUTS, ids=lambda value: str(value)[:60])
    def test_finish_closes_arguments_only_if_model_ended_its_turn(
        self, text: str, complete: list[tuple[str, str]], cut: list[tuple[str, str]], before: str
    ) -> None:
        earlier = [("write", '{"mode": 1}')] if before else []
        text = before + text
        assert calls_of(text, "stop") == calls_of(text, "tool_calls") == earlier + complete
        for reason in ("length", "stop_string", "abort"):
            assert calls_of(text, reason) == earlier + cut
            assert read(text, TOOLS, finish_reason=reason).content is None
            parser = LONGCAT.parser(TOOLS)
            parser.feed(text)
            parser.finish(reason)
            assert parser.cut_call

    @pytest.mark.parametrize("text", ["", "hm", f"{NOW}", f"{NOW}done", f"see {TC}, that", f"{NOW}<longcat"])
    def test_finish_reports_no_cut_call_outside_calls(self, text: str) -> None:
        for reason in ("length", "stop_string"):
            parser = LONGCAT.parser(TOOLS)
            parser.feed(text)
            parser.finish(reason)
            assert not parser.cut_call

    def test_finish_forbids_further_pieces(self) -> None:
        parser = LONGCAT.parser(TOOLS)
        parser.feed("a <")
        assert parser.finish("stop") == [ContentDelta("<")]
        assert parser.finish("stop") == []
        with pytest.raises(RuntimeError, match="make a new one"):
            parser.feed("b")


class TestReasoning:
    @pytest.mark.parametrize("size", [0, 1, 3])
    @pytest.mark.parametrize(
        ("text", "thinking"),
        [
            (f"\nhm <b> \n\nso\n{THINK_END}\nyes ", True),
            (f"{THINK}\nhm <b> \n\nso\n{THINK_END}\n\nyes ", True),
            (f"\n{THINK}hm <b> \n\nso{THINK_END}yes ", False),
        ],
    )
    def test_parser_reads_think_block_without_surrounding_whitespace(
        self, text: str, thinking: bool, size: int
    ) -> None:
        for tools in (TOOLS, []):
            message = read(text, tools, thinking=thinking, size=size)
            assert (message.reasoning, message.content) == ("hm <b> \n\nso", "yes ")

    def test_parser_streams_reasoning(self) -> None:
        parser = LONGCAT.parser(TOOLS, thinking=True)
        assert parser.feed("\nhm") == [ReasoningDelta("hm")]
        assert parser.feed(" \n") == []
        assert parser.feed("so </long") == [ReasoningDelta(" \nso")]
        assert parser.feed("er>") == [ReasoningDelta(" </longer>")]

    def test_parser_ignores_empty_think_block(self) -> None:
        message = read(f"{THINK}\n{THINK_END}\nyes", TOOLS)
        assert (message.reasoning, message.content) == (None, "yes")

    def test_parser_reads_unclosed_think_block_as_reasoning(self) -> None:
        message = read("hm\n", TOOLS, thinking=True)
        assert (message.reasoning, message.content) == ("hm", None)

    @pytest.mark.parametrize("size", [0, 1])
    def test_parser_ends_reasoning_at_call(self, size: int) -> None:
        message = read(f"hm\n{NOW}{THINK_END}\nyes", TOOLS, thinking=True, size=size)
        assert (message.reasoning, message.content, message.calls) == ("hm", "yes", (("now", "{}"),))
        message = read(f"hm\n{NOW}well{THINK_END}\nyes {THINK_END}", TOOLS, thinking=True, size=size)
        assert (message.reasoning, message.content) == ("hm", f"wellyes {THINK_END}")

    @pytest.mark.parametrize("size", [0, 1])
    def test_parser_keeps_opening_marker_in_reasoning(self, size: int) -> None:
        text = f"the marker `{TC}` opens a call\n{THINK_END}\nyes"
        message = read(text, TOOLS, thinking=True, size=size)
        assert (message.reasoning, message.content) == (f"the marker `{TC}` opens a call", "yes")

    def test_parser_keeps_think_markers_inside_content(self) -> None:
        assert content_of(f"a {THINK}b{THINK_END} c") == f"a {THINK}b{THINK_END} c"
        assert content_of(f"{NOW}{THINK}b{THINK_END}") == f"{THINK}b{THINK_END}"


class TestJsonDialect:
    @pytest.mark.parametrize(
        ("block", "arguments"),
        [
            ('{"name": "write", "arguments": {"mode":1, "x":[{}]}}', '{"mode": 1, "x": [{}]}'),
            ('\n{"name": "write", "arguments": {}}\n', "{}"),
            ('{"name": "write"}', "{}"),
            ('{"name": "functions.write", "parameters": {"a": "é"}}', '{"a": "é"}'),
            ('{"arguments": "{\\"a\\": 1}", "name": "write"}', '{"a": 1}'),
            ('{"name": "write", "arguments": {"a": "x\ny"}}', r'{"a": "x\ny"}'),
            (
                f'{{"name": "write", "arguments": {{"a": "{TE} {TC} \\"}} {{"}}}}',
                f'{{"a": "{TE} {TC} \\"}} {{"}}',
            ),
        ],
    )
    def test_parser_reads_json_object_as_call(self, block: str, arguments: str) -> None:
        expected = [("write", arguments), ("now", "{}")]
        assert calls_of(f"{TC}{block}{TE}{NOW}") == expected
        assert content_of(f"a{TC}{block}{TE}\nb") == "ab"
        assert calls_of(f"{TC}{block}") == expected[:1]

    @pytest.mark.parametrize("name", ["foo", "Write", "default_api.write"])
    def test_parser_reports_json_call_of_undeclared_tool(self, name: str) -> None:
        block = f'{TC}{{"name": "{name}", "arguments": {{"a": [1]}}}}{TE}'
        assert calls_of(f"{NOW}{block}{NOW}") == [("now", "{}"), (name, '{"a": [1]}'), ("now", "{}")]
        assert content_of(f"a{block}b") == "ab"

    @pytest.mark.parametrize(
        "block",
        [
            '{"name": "write", "arguments": []}',
            '{"name": "write", "arguments": "x"}',
            '{"name": "write", "arguments": {"a": NaN}}',
            '{"name": "write", "arguments": {"a": ' + "[" * 500 + "]" * 500 + "}}",
            '{"name": "write", "arguments": {"a": ' + "9" * 5000 + "}}",
            '{"name": 3}',
            "{function-name}",
            '{"name": "write", "arguments": {',
            '{"name": "write, "arguments": {}}',
            '{"name": "write',
            '\n{"name": \\"write\\"}',
        ],
    )
    def test_parser_keeps_json_block_that_is_not_a_call_as_content(self, block: str) -> None:
        assert calls_of(f"{NOW}{TC}{block}{TE}{NOW}") == [("now", "{}"), ("now", "{}")]
        assert content_of(f"a{TC}{block}{TE}b") == f"a{TC}{block}{TE}b"

    def test_parser_recovers_text_after_unclosed_json_string(self) -> None:
        text = f'{TC}{{"name{TE} "{TE}{NOW}'
        assert content_of(text) == f'{TC}{{"name{TE} "{TE}'
        assert calls_of(text) == [("now", "{}")]

    @pytest.mark.parametrize(
        "text",
        [
            f'{TC}{{"name": "write", "arguments": {{"a": "b',
            f'{TC}{{"name": "write", "arguments": {{"a": "b"}}',
            # The closing marker and the second call are data of the string that was cut.
            f'{TC}{{"name": "write", "arguments": {{"a": "b{TE} {NOW}',
            TC,
            f"{TC} ",
        ],
    )
    def test_parser_does_not_report_cut_json_call(self, text: str) -> None:
        for reason in ("length", "stop_string"):
            assert calls_of(text, reason) == []
            assert read(text, TOOLS, finish_reason=reason).content is None

    def test_parser_reports_json_call_that_lacks_only_its_closing_marker(self) -> None:
        text = f'{TC}{{"name": "write", "arguments": {{"a": "b"}}}}'
        parser = LONGCAT.parser(TOOLS)
        assert assemble([*parser.feed(text), *parser.finish("stop_string")]).calls == (
            ("write", '{"a": "b"}'),
        )
        assert not parser.cut_call
