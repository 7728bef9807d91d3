"""Grammars of custom tools' input: the texts that the decoder may write, and grammars that it never sees."""

import json
import random

import lark
import pytest

from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.compile_cost import Budget
from serval.grammar.dialects.longcat import LONGCAT
from serval.grammar.input_grammar import input_node
from serval.grammar.lark_grammar import NotEnforceableError
from serval.schema.error import SchemaError
from serval.tools.events import ArgumentsDelta
from serval_testkit.grammar_walk import UnfinishedWalkError, accepts, compiled_text, walk

# A patch as coding agents write it.
PATCH = """
start: "*** Begin" LF file+ "*** End" LF?
file: added | removed | changed
added: "*** Add: " path LF line_added+
removed: "*** Delete: " path LF   // nothing follows
changed: "*** Update: " path LF [moved] (context | line)*
?path: /(.+)/
line_added: "+" /(.*)/ LF -> line
moved: "*** Move: " path LF
context: ("@@" | "@@ " /(.+)/) LF
line: ("+" | "-" | " ") /(.*)/ LF

%import common.LF
"""
WRITTEN = (
    "*** Begin\n*** Update: a.py\n@@ def f\n-    return '<div>'\n+    x < y </b>\n*** Add: b\n+\n*** End\n"
)
CLOSE = "</longcat_arg_value>"


def tag(definition: str, syntax: str = "lark") -> str:
    tool = {
        "type": "function",
        "function": {
            "name": "patch",
            "parameters": {"type": "object", "properties": {"input": {"type": "string"}}},
            "strict": True,
            "input_grammar": {"syntax": syntax, "definition": definition},
        },
    }
    made = answer_grammar(LONGCAT, [tool], tool_choice="required", parallel_tool_calls=False)
    assert made is not None
    return made


def written(text: str) -> str:
    return (
        "<longcat_tool_call>patch\n<longcat_arg_key>input</longcat_arg_key>\n"
        f"<longcat_arg_value>{text}{CLOSE}\n</longcat_tool_call>\n"
    )


def read(call: str) -> str:
    """Return the input that the parser reads from a call."""
    parser = LONGCAT.parser(
        [{"function": {"name": "patch", "parameters": {"properties": {"input": {"type": "string"}}}}}]
    )
    events = [*parser.feed(call), *parser.finish("stop")]
    found = json.loads("".join(event.text for event in events if isinstance(event, ArgumentsDelta)))
    assert list(found) == ["input"]
    return str(found["input"])


def test_decoder_may_write_what_the_grammar_describes_and_nothing_else() -> None:
    grammar = compiled_text(tag(PATCH))
    assert accepts(grammar, written(WRITTEN))
    assert accepts(grammar, written(WRITTEN.removesuffix("\n")))
    assert read(written(WRITTEN)) == WRITTEN
    for wrong in (
        "",
        "a",
        WRITTEN.replace("*** End", "*** Ende"),
        WRITTEN.replace("@@ def", "@ def"),
        WRITTEN * 2,
    ):
        assert not accepts(grammar, written(wrong)), wrong


def test_closing_marker_cannot_be_written_inside_the_input() -> None:
    grammar = compiled_text(tag(PATCH))
    for marker in (
        CLOSE,
        "<longcat_arg_key>",
        "<longcat_arg_value>",
        "<longcat_tool_call>",
        "</longcat_tool_call>",
    ):
        assert not accepts(grammar, written(WRITTEN.replace("x < y", marker))), marker
        assert accepts(grammar, written(WRITTEN.replace("x < y", marker[:-1])))


GRAMMARS = [
    'start: "a"~2..3 ["b"] ("c"i | "0".."9")+',
    "start: word (/, */ word)*\nword: /[a-z]{1,3}/",
    'start: A | b\nA.2: /x+y?/\n!b: INT "-" CNAME\n%import common (INT, CNAME)',
    'start: "\\n\\t\\"\\u00e4\\x41" NUMBER -> number\n  | "é" WS_INLINE\n'
    "%import common.SIGNED_INT -> NUMBER\n%import common.WS_INLINE",
    'start: "a" // comment\n  | "b"+ "c"?  # another\n\n\n',
    'start: x?\n_x: "a"\nx: _x | ',
]


@pytest.mark.parametrize("definition", GRAMMARS)
def test_texts_of_the_decoder_are_those_that_lark_reads(definition: str) -> None:
    grammar = compiled_text(tag(definition))
    oracle = lark.Lark(definition, parser="earley", lexer="dynamic_complete")
    choices, found = random.Random(1), set()
    for _ in range(30):
        try:
            found.add(read(walk(grammar, choices, limit=200)))
        except UnfinishedWalkError:
            continue
    assert len(found) > 1
    for text in found:
        oracle.parse(text)
        for other in (text[:-1], text + text[-1:], text.upper()):
            try:
                oracle.parse(other)
            except lark.exceptions.LarkError:
                assert not accepts(grammar, written(other)), other
            else:
                assert accepts(grammar, written(other)), other


@pytest.mark.parametrize(
    "definition",
    [
        'start: "a" start | "b"',
        'start: list\nlist: "a" | list "," "a"',
        'start: "a" WORD\n%import common.WORD\n%ignore " "',
        "start: A\n%import python.NUMBER -> A",
        "start: A\n%import .secret.A",
        'start: x{"a"}\nx{y}: y',
        "start: /a/i",
        "start: /a(?=b)/",
        'other: "a"',
        "start: missing",
        'start: "a"\nstart: "b"',
        'start: ("a"',
        'start: "a")',
        "start",
        "start: +",
        'start: "b".."a"',
        'start: "ab".."c"',
        'start: "a"~3..2',
        'start: "\\ud800"',
        "start: 'a'",
        "",
    ],
)
def test_grammar_that_is_no_pattern_is_not_enforced(definition: str) -> None:
    with pytest.raises(NotEnforceableError):
        input_node("lark", definition, Budget())


def doubling(base: str) -> str:
    rules = [f"r{number}: r{number + 1} r{number + 1}" for number in range(60)]
    return "\n".join(["start: r0", *rules, f"r60: {base}"])


@pytest.mark.parametrize(
    ("syntax", "definition"),
    [
        ("lark", "start: (/.*/)*"),
        ("lark", 'start: ("a"* "b"?)*'),
        ("lark", "start: /([a-z]+-?)+/"),
        ("lark", 'start: "a"~9999 "b"~9999 "c"~9999'),
        ("lark", 'start: ("a"~9999)~9999'),
        ("lark", doubling('"a"')),
        ("lark", doubling("")),
        ("lark", "start: " + "(" * 5000 + '"a"' + ")" * 5000),
        ("lark", "start: r0\n" + "\n".join(f"r{n}: r{n + 1}" for n in range(900)) + '\nr900: "a"'),
        ("lark", "start: " + " ".join(['"a"'] * 10_000)),
        ("regex", "([a-z]+-?)+"),
        ("regex", "a" * 10_000),
    ],
)
def test_grammar_that_would_keep_the_decoder_busy_is_refused(syntax: str, definition: str) -> None:
    with pytest.raises(SchemaError):
        tag(definition, syntax)


def test_regular_expression_holds_the_input() -> None:
    grammar = compiled_text(tag(r"[a-z]+ = .*", "regex"))
    assert accepts(grammar, written("ab = <x> 1"))
    assert not accepts(grammar, written("AB = 1"))
    assert not accepts(grammar, written("ab = 1\n2"))
