"""Outputs that some LongCat or GLM parser is known to fail on, read whole and in pieces."""

import pytest

from serval_testkit.longcat_text import KC, KO, TC, TE, VO, call, pair, read, tool

TOOLS = [
    tool(
        "get_weather",
        city={"type": "string"},
        days={"type": "integer"},
        temp={"type": "number"},
        flag={"type": "boolean"},
        opts={"type": "object"},
        code={"type": "string"},
        opt={"type": ["string", "null"]},
        uni={"anyOf": [{"type": "string"}, {"type": "integer"}]},
        en={"enum": ["7", 8]},
    ),
    tool("now"),
    tool("write", path={"type": "string"}, content={"type": "string"}),
]
PARIS = call("get_weather", pair("city", "Paris"))
PARIS_CALL = ("get_weather", '{"city": "Paris"}')


def weather(key: str, value: str) -> str:
    return call("get_weather", pair(key, value))


def write(content: str) -> str:
    return call("write", pair("content", content))


# name, text, content, calls
Case = tuple[str, str, str | None, list[tuple[str, str]]]
CASES: list[Case] = [
    ("one call", PARIS, None, [PARIS_CALL]),
    ("text before", "Let me check.\n" + PARIS, "Let me check.\n", [PARIS_CALL]),
    ("two calls", PARIS + weather("city", "Rome"), None, [PARIS_CALL, ("get_weather", '{"city": "Rome"}')]),
    ("no arguments", f"{TC}now\n{TE}\n", None, [("now", "{}")]),
    ("no newline after the name", f"{TC}now{TE}", None, [("now", "{}")]),
    ("integer", weather("days", "3"), None, [("get_weather", '{"days": 3}')]),
    ("digits for a string", weather("city", "007"), None, [("get_weather", '{"city": "007"}')]),
    ("quoted string", weather("city", '"Paris"'), None, [("get_weather", r'{"city": "\"Paris\""}')]),
    ("JSON for a string", weather("code", '{"a": 1}'), None, [("get_weather", r'{"code": "{\"a\": 1}"}')]),
    ("true for a string", weather("city", "true"), None, [("get_weather", '{"city": "true"}')]),
    (
        "nested object",
        weather("opts", '{"a":[1,{"b":"c"}]}'),
        None,
        [("get_weather", '{"opts": {"a": [1, {"b": "c"}]}}')],
    ),
    (
        "indented code",
        write("    def f():\n        pass\n"),
        None,
        [("write", r'{"content": "    def f():\n        pass\n"}')],
    ),
    ("empty string", write(""), None, [("write", '{"content": ""}')]),
    (
        "closing call marker in a value",
        write("x </longcat_tool_call> y"),
        None,
        [("write", '{"content": "x </longcat_tool_call> y"}')],
    ),
    (
        "closing value marker in a value",
        write("x </longcat_arg_value> y"),
        None,
        [("write", '{"content": "x </longcat_arg_value> y"}')],
    ),
    (
        "key markers in a value",
        write("x <longcat_arg_key>z</longcat_arg_key> y"),
        None,
        [("write", '{"content": "x <longcat_arg_key>z</longcat_arg_key> y"}')],
    ),
    (
        "opening call marker in a value",
        write("use <longcat_tool_call>f"),
        None,
        [("write", '{"content": "use <longcat_tool_call>f"}')],
    ),
    (
        "backslashes and quotes",
        call("write", pair("path", r"C:\new\tab"), pair("content", 'He said "hi"\\n\t end')),
        None,
        [("write", r'{"path": "C:\\new\\tab", "content": "He said \"hi\"\\n\t end"}')],
    ),
    ("regular expression", write(r"\d+\.\w"), None, [("write", r'{"content": "\\d+\\.\\w"}')]),
    ("text for string or null", weather("opt", "Smith"), None, [("get_weather", '{"opt": "Smith"}')]),
    ("null for string or null", weather("opt", "null"), None, [("get_weather", '{"opt": null}')]),
    ("number for string or integer", weather("uni", "5"), None, [("get_weather", '{"uni": 5}')]),
    ("Python's True", weather("flag", "True"), None, [("get_weather", '{"flag": true}')]),
    ("Python's dict", weather("opts", "{'a': 1}"), None, [("get_weather", '{"opts": {"a": 1}}')]),
    ("undeclared tool", call("foo", pair("a", "1")), None, [("foo", '{"a": 1}')]),
    (
        "undeclared tool, then a call",
        call("foo", pair("a", "1")) + f"{TC}now\n{TE}\n",
        None,
        [("foo", '{"a": 1}'), ("now", "{}")],
    ),
    ("no closing call marker", f"{TC}get_weather\n{pair('city', 'Paris')}", None, [PARIS_CALL]),
    ("text after", PARIS + "done", "done", [PARIS_CALL]),
    (
        "text between",
        f"{TC}now\n{TE}\nand then\n{TC}now\n{TE}\n",
        "and then\n",
        [("now", "{}"), ("now", "{}")],
    ),
    ("listed string", weather("en", "7"), None, [("get_weather", '{"en": "7"}')]),
    ("listed number", weather("en", "8"), None, [("get_weather", '{"en": 8}')]),
]
SIZES = (0, 1, 2, 3, 5, 7, 13)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_parser_reads_recorded_case(case: Case, size: int) -> None:
    _, text, content, calls = case
    message = read(text, TOOLS, size=size)
    assert message.content == content
    assert message.calls == tuple(calls)


@pytest.mark.parametrize("size", SIZES)
def test_parser_leaves_arguments_open_at_length_limit(size: int) -> None:
    message = read(f"{TC}get_weather\n{KO}city{KC}\n{VO}Par", TOOLS, size=size, finish_reason="length")
    assert message.content is None
    assert message.calls == (("get_weather", '{"city": "Par'),)
