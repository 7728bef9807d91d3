"""Numbers with `multipleOf` and bounds: the grammar admits exactly the numbers that the schema does."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from serval.grammar.number_rules import NumberError, number_rule, states_of
from serval.grammar.pattern_rules import Rules
from serval_testkit.grammar_walk import accepts, compiled

TEXTS = [
    f"{sign}{whole}{decimals}"
    for sign in ("", "-")
    for whole in range(121)
    for decimals in ("", ".5", ".05", ".29", ".250")
]


def grammar(number: dict[str, Any]) -> Any:
    rules = Rules()
    text = rules.text(number_rule(number, rules))
    return compiled({"type": "structural_tag", "format": {"type": "grammar", "grammar": text}})


def admits(number: dict[str, Any], text: str) -> bool:
    value = Fraction(Decimal(text))
    if number["type"] == "integer" and "." in text:
        return False
    return (
        (value != 0 or not text.startswith("-"))
        and value >= Fraction(str(number.get("minimum", value)))
        and value <= Fraction(str(number.get("maximum", value)))
        and ("exclusiveMinimum" not in number or value > Fraction(str(number["exclusiveMinimum"])))
        and ("exclusiveMaximum" not in number or value < Fraction(str(number["exclusiveMaximum"])))
        and value % Fraction(str(number.get("multipleOf", value or 1))) == 0
    )


@pytest.mark.parametrize(
    "number",
    [
        {"type": "integer", "multipleOf": 5},
        {"type": "integer", "multipleOf": 7, "minimum": -20, "maximum": 100},
        {"type": "integer", "multipleOf": 2.5},
        {"type": "integer", "minimum": 9, "maximum": 101},
        {"type": "integer", "maximum": -3, "multipleOf": 3},
        {"type": "number", "multipleOf": 0.25},
        {"type": "number", "multipleOf": 0.05, "exclusiveMinimum": 0, "maximum": 99.5},
        {"type": "number", "multipleOf": 2.5, "minimum": -10},
        {"type": "number", "minimum": -2.5, "exclusiveMaximum": 100.05},
        {"type": "number", "exclusiveMinimum": 99, "maximum": 100.29},
    ],
    ids=str,
)
def test_number_rule_admits_exactly_the_numbers(number: dict[str, Any]) -> None:
    admitting = grammar(number)
    places = 2 if number.get("multipleOf") in (0.25, 0.05) else 1
    for text in TEXTS:
        if "multipleOf" in number and len(text.partition(".")[2]) > places:
            continue  # written longer than it needs to be
        assert accepts(admitting, text) == admits(number, text), text


def test_number_rule_admits_written_decimals() -> None:
    cents = grammar({"type": "number", "multipleOf": 0.01})
    for text in ("0.29", "12.3", "-1.07", "100"):
        assert accepts(cents, text)
    for text in ("0.001", "1e3", "01", "1.", ".5", ""):
        assert not accepts(cents, text)


def test_number_rule_reads_bounds_exactly() -> None:
    large = grammar({"type": "number", "minimum": 10**30 + 1})
    assert accepts(large, str(10**30 + 1))
    assert not accepts(large, str(10**30))
    assert accepts(grammar({"type": "number", "maximum": 5e-324, "minimum": 0}), "0." + "0" * 323 + "1")


def test_states_are_bounded() -> None:
    assert states_of({"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 10}) == 0
    assert states_of({"type": "integer", "multipleOf": 1000}) < 20
    for step in (86_413, 1e-40):
        with pytest.raises(NumberError):
            states_of({"type": "number", "multipleOf": step})
