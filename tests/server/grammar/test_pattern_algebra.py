"""Constraints on one string that hold together: lengths, `format` and `pattern`.

Tried beside the reported cases: each format, a pattern that implies it, one that it implies, and neither.
"""

import random
import re
from typing import Any

import pytest

from serval.grammar import pattern
from serval.grammar.compile_cost import Budget
from serval.grammar.formats import json_format
from serval.grammar.pattern_algebra import ContradictionError, both, longest, of_length, shortest
from serval.grammar.schema_check import enforceable_schema
from serval.grammar.string_formats import FORMAT_PATTERNS
from serval_testkit.grammar_walk import UnfinishedWalkError, accepts, compiled, walk

VERSIONED_UUID = "^([0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})$"
LOG_LINE = r"^\[2026-01-01T12:00:00Z\] WARN: Queue\.reader - Batch [a-z]+ finished$"
MONTHS = (
    "^(January|February|March|April|May|June|July|August|September|October|November|December) "
    "[0-9]{1,2}, [0-9]{4}$"
)


def admitting(schema: dict[str, Any]) -> Any:
    enforced = enforceable_schema({"type": "string"} | schema, strict=True, avoid="<", budget=Budget())
    return compiled({"type": "structural_tag", "format": json_format(enforced, whitespace=1, avoid="<")})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            {"format": "uuid", "pattern": VERSIONED_UUID},
            ["123e4567-e89b-12d3-a456-426614174000"],
            ["123e4567-e89b-92d3-a456-426614174000", "123E4567-e89b-12d3-a456-426614174000"],
        ),
        ({"format": "date", "pattern": "^2026"}, ["2026-01-31"], ["2025-01-31", "2026", "2026-1-1"]),
        ({"format": "email", "pattern": r"@example\.com$"}, ["a.b@example.com"], ["a@b.com", "@example.com"]),
        ({"format": "uri", "pattern": "^https://"}, ["https://a.b/c?d=%20#e"], ["http://a", "https://a b"]),
        ({"format": "ipv4", "pattern": "."}, ["10.0.0.255"], ["10.0.0.256"]),
        ({"format": "time", "pattern": r"^([01]\d|2[0-3]):[0-5]\d$"}, ["23:59"], ["24:00", "23:59:00Z"]),
        ({"format": "phone", "pattern": "^[0-9]+$"}, ["112"], ["x"]),
        (
            {"pattern": "^[a-z]+$", "minLength": 3, "maxLength": 10},
            ["abc", "a" * 10],
            ["ab", "a" * 11, "ABC"],
        ),
        (
            {"pattern": "^#[0-9a-f]+$", "minLength": 4, "maxLength": 7},
            ["#fff", "#0a0b0c"],
            ["#ff", "#0a0b0c0"],
        ),
        ({"pattern": "^[a-z]", "maxLength": 50}, ["a", "aB" * 25], ["", "A", "a" * 51]),
        (
            {"pattern": "^(a|bcd|[e-f]{5,9})$", "minLength": 2, "maxLength": 6},
            ["bcd", "eefef"],
            ["a", "efefefe"],
        ),
        ({"format": "email", "maxLength": 50}, ["a@b.co"], ["a" * 45 + "@b.com", "@b.co"]),
        (
            {"format": "hostname", "minLength": 4, "maxLength": 253},
            ["abcd", "abcd.example", "a.b.c"],
            ["a.b", "-a.b"],
        ),
        ({"pattern": LOG_LINE}, ["[2026-01-01T12:00:00Z] WARN: Queue.reader - Batch abc finished"], ["x"]),
        ({"pattern": MONTHS}, ["May 3, 2026", "September 30, 1999"], ["Smarch 3, 2026"]),
    ],
    ids=lambda value: str(value)[:70],
)
def test_constraints_hold_together(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    grammar = admitting(schema)
    assert [text for text in good if not accepts(grammar, f'"{text}"')] == []
    assert [text for text in bad if accepts(grammar, f'"{text}"')] == []


@pytest.mark.parametrize(
    ("expression", "least", "most"),
    [
        ("^[a-z]+(-[a-z]+)*$", 0, 20),
        ("^[a-z]+(-[a-z]+)*$", 12, 14),
        (r"^\S+@\S+\.[a-z]{2,}$", 8, 30),
        ("x", 5, 9),
        ("^(ab?|[^a-c]){2,}$", 7, 9),
        ("^((ab)*c?)*$", 4, 9),
        ("^(abc){2,9}$", 10, 20),
        ("^(a|bb|ccc)*$", 5, 6),
    ],
)
def test_pattern_with_lengths_admits_only_matches_of_these_lengths(
    expression: str, least: int, most: int
) -> None:
    node = of_length(pattern.parse(expression), least, most)
    assert least <= shortest(node) <= longest(node) <= most
    written = pattern.write(node, in_json=False, avoid="")
    grammar = compiled({"type": "structural_tag", "format": {"type": "regex", "pattern": written}})
    choices = random.Random(expression)
    texts = set()
    for _ in range(30):
        try:
            texts.add(walk(grammar, choices))
        except UnfinishedWalkError:
            continue
    assert texts
    for text in texts:
        assert re.search(expression, text)
        assert least <= len(text) <= most


@pytest.mark.parametrize(
    ("expression", "least", "most"), [("^abc$", 4, 9), ("^abc$", 0, 2), ("^(ab)*$", 3, 3)]
)
def test_length_that_no_text_has_is_refused(expression: str, least: int, most: int) -> None:
    with pytest.raises(pattern.PatternError, match="no text of the lengths"):
        of_length(pattern.parse(expression), least, most)


@pytest.mark.parametrize("name", FORMAT_PATTERNS)
def test_both_keeps_pattern_that_implies_other(name: str) -> None:
    node, anything = pattern.parse(FORMAT_PATTERNS[name]), pattern.parse("")
    assert both(node, anything) == node
    assert both(anything, node) == node


def test_both_refuses_patterns_without_common_text() -> None:
    with pytest.raises(ContradictionError):
        both(pattern.parse("^[a-c]+$"), pattern.parse("^[0-9]{4}$"))


def test_both_refuses_patterns_that_are_too_complex_together() -> None:
    with pytest.raises(pattern.PatternError, match=r"too complex|counts above"):
        both(pattern.parse("^([a-z]{1,30}-?){1,10}$"), pattern.parse("^([a-w]{1,7}(-[a-z]{1,5})?){1,30}$"))
