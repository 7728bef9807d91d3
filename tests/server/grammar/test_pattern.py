"""Rewritten patterns admit only strings in which the original is found, and almost all of them."""

import json
import random
import re

import pytest
import xgrammar

from serval.grammar import pattern
from serval_testkit.grammar_walk import UnfinishedWalkError, accepts, compiled, next_bytes, walk

# pattern, strings to accept, strings to refuse
CASES = [
    ("^ab$", ["ab"], ["a", "abc", "xab"]),
    ("ab", ["ab", "xaby", "\nab\n"], ["a", "ba"]),
    ("^a|b$", ["axx", "xxb", "a", "b"], ["xax", "bx"]),
    ("^(a|bc){2,3}$", ["aa", "abc", "bcbca"], ["a", "aaaa", "bc"]),
    ("^(?:a)?(?<n>b)*(?P<m>c)+?$", ["c", "abbcc"], ["ab", "aac"]),
    (r"^\d{3}-\w\s\S$", ["123-_ x", "999-A\t北"], ["12-a b", "123-é x"]),
    (r"^[^a-z\n]$", ["A", "北", '"', "\\"], ["a", "\n", ""]),
    (r"^\x41\u5317\.\/\t\0$", ["A北./\t\0"], ["A北x/\t\0"]),
    ("^[<>]=?$", ["<", ">=", "<="], ["="]),
    ("^.$", ["a", "\x07"], ["\n", "", "<"]),
    (r"^[\d\-a]$", ["3", "-", "a"], ["b"]),
    (r"^\W$", ["-", " "], ["a", "_"]),
    ("", ["", "anything\n"], ["<"]),
]


def raw(expression: str) -> dict[str, object]:
    written = pattern.write(pattern.parse(expression), in_json=False, avoid="<")
    content = {"type": "regex", "pattern": written} if written else {"type": "const_string", "value": ""}
    return {
        "type": "structural_tag",
        "format": {"type": "tag", "begin": "", "content": content, "end": "<end>"},
    }


def in_json(expression: str) -> dict[str, object]:
    schema = {"type": "string", "pattern": pattern.write(pattern.parse(expression), in_json=True, avoid="<")}
    return {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}


@pytest.mark.parametrize(("expression", "good", "bad"), CASES)
def test_pattern_constrains_raw_text(expression: str, good: list[str], bad: list[str]) -> None:
    grammar = compiled(raw(expression))
    assert [text for text in good if not accepts(grammar, f"{text}<end>")] == []
    assert [text for text in bad if accepts(grammar, f"{text}<end>")] == []


@pytest.mark.parametrize(("expression", "good", "bad"), [case for case in CASES if "\\0" not in case[0]])
def test_pattern_constrains_json_string(expression: str, good: list[str], bad: list[str]) -> None:
    grammar = compiled(in_json(expression))
    unescaped = [text for text in good if json.dumps(text, ensure_ascii=False) == f'"{text}"']
    assert [text for text in unescaped if not accepts(grammar, json.dumps(text, ensure_ascii=False))] == []
    assert [text for text in bad if accepts(grammar, json.dumps(text, ensure_ascii=False))] == []


@pytest.mark.parametrize(
    "expression",
    [
        "x+",
        r"^\S+@\S+\.\w{2,}$",
        r"^[^\"]*$",
        r"^(\W|\d)+$",
        r"^[\u00e9-\u{ffff}]?.\s*$".replace("{", "").replace("}", ""),
    ],
)
def test_pattern_admits_only_matches_of_original(expression: str) -> None:
    choices = random.Random(expression)
    for form in (raw, in_json):
        grammar = compiled(form(expression))
        texts = []
        for _ in range(40):
            try:
                texts.append(walk(grammar, choices))
            except UnfinishedWalkError:
                continue
        assert texts
        for text in texts:
            value = json.loads(text) if form is in_json else text.removesuffix("<end>")
            assert re.search(expression, value), value


def test_pattern_that_needs_unwritable_character_is_refused() -> None:
    with pytest.raises(pattern.PatternError, match="cannot be written here"):
        pattern.write(pattern.parse("[]"), in_json=False, avoid="<")
    for expression in ('"', "a\\\\", "[\\n]"):
        with pytest.raises(pattern.PatternError, match="cannot be written inside JSON"):
            pattern.write(pattern.parse(expression), in_json=True, avoid="<")


def test_complement_and_union_cover_all_characters() -> None:
    ranges = ((0x10, 0x20), (0x41, 0x41), (0xFFFF, 0x10FFFF))
    others = pattern.complement(ranges)
    assert pattern.complement(others) == ranges
    assert pattern.union([*ranges, *others, (0xD800, 0xDFFF)]) == ((0, 0x10FFFF),)
    assert pattern.without(ranges, ((0x18, 0x41),)) == ((0x10, 0x17), (0xFFFF, 0x10FFFF))


def written_by(format: dict[str, object], *, after: str) -> set[str]:
    """Return all characters that may follow `after`. Fails if one may begin but not end."""
    matcher = xgrammar.GrammarMatcher(compiled({"type": "structural_tag", "format": format}))
    assert matcher.accept_string(after) or not after
    found: set[str] = set()

    def walk_on(prefix: bytes) -> None:
        following = next_bytes(matcher)
        assert following, f"nothing is allowed after {prefix!r}"
        for byte in following:
            assert matcher.accept_token(byte)
            try:
                found.add((prefix + bytes([byte])).decode())
            except UnicodeDecodeError:
                walk_on(prefix + bytes([byte]))
            matcher.rollback(1)

    walk_on(b"")
    return found


@pytest.mark.parametrize(
    "ranges",
    [
        [(0xCF80, 0xD050)],  # Hangul: two first bytes, ends within the second
        [(0x1F0, 0x820)],
        [(0x2FF0, 0x40BE)],
        [(0x5E, 0x5F), (0xFFE, 0x1001)],  # begins with a caret
        [(0x5E, 0x5E), (0x60, 0x60)],
        [(0xFFF0, 0x10010)],
    ],
)
def test_character_set_admits_exactly_its_characters(ranges: list[tuple[int, int]]) -> None:
    characters = pattern.CharacterSet(tuple(ranges))
    raw_format: dict[str, object] = {
        "type": "regex",
        "pattern": pattern.write(characters, in_json=False, avoid="<"),
    }
    schema = {"type": "string", "pattern": pattern.write(characters, in_json=True, avoid="<")}
    expected = {chr(point) for first, last in ranges for point in range(first, last + 1)}
    assert written_by(raw_format, after="") == expected
    assert written_by({"type": "json_schema", "json_schema": schema}, after='"') == expected
