"""Grammars that clients write: outputs they admit in xgrammar, and grammars that are refused."""

import pytest

from serval.grammar.free_grammar import ebnf_grammar, regex_grammar
from serval.schema.error import SchemaError
from serval_testkit.grammar_walk import accepts, compiled_text


@pytest.mark.parametrize("expression", ["yes|no", "^yes|no$", "^(?:yes|no)$"])
def test_regex_matches_whole_answer(expression: str) -> None:
    grammar = compiled_text(regex_grammar(expression, avoid="<"))
    assert accepts(grammar, "yes")
    assert accepts(grammar, "no")
    for text in ("yes!", "oh no", "", "yesno"):
        assert not accepts(grammar, text), text


def test_regex_reads_escaped_dollar_as_character() -> None:
    grammar = compiled_text(regex_grammar(r"[0-9]+\$", avoid="<"))
    assert accepts(grammar, "12$")
    assert not accepts(grammar, "12")
    backslash = compiled_text(regex_grammar(r"a\\$", avoid="<"))
    assert accepts(backslash, "a\\")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(a+)+b", "thousands of ways"),
        ("(a{1000}){1000}", "at most 20000"),
        ("(?=a)b", "lookahead"),
        ("a)(b", "no group to close"),
        ("(", "not closed"),
        ("a" * 4097, "more than 4096"),
        ("(" * 51 + "a" + ")" * 51, "nested deeper"),
    ],
)
def test_regex_that_cannot_be_enforced_in_time_is_refused(expression: str, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason) as error:
        regex_grammar(expression, avoid="<")
    assert error.value.path == "regex"


def test_ebnf_starts_at_root_rule() -> None:
    grammar = compiled_text(
        ebnf_grammar('# colours (of two)\nroot ::= "I see " (colour | "a (")\ncolour ::= [a-z(]+')
    )
    for text in ("I see a (", "I see red"):
        assert accepts(grammar, text), text
    assert not accepts(grammar, "red")


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ('answer ::= "a"', "no rule named root"),
        ('root ::= "a', 'line 1: " is not closed'),
        ('root ::= "a"\nb ::= [a', r"line 2: \[ is not closed"),
        ('root ::= ("a"\nb ::= "b")', "line 2: a group of the rule before"),
        ('root ::= ("a"', "group of the last rule is not closed"),
        ('root ::= "a")', "line 1: there is no group to close"),
        ("root ::= " + "(" * 51 + '"a"' + ")" * 51, "deeper than 50"),
        ('root ::= "a"\n' + "".join(f'r{n} ::= "a"\n' for n in range(500)), "501 rules"),
        ('root ::= "' + "a" * 16_384 + '"', "more than 16384"),
        ("", "no rule named root"),
    ],
)
def test_ebnf_that_is_too_large_or_malformed_is_refused(rules: str, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason) as error:
        ebnf_grammar(rules)
    assert error.value.path == "ebnf"


def test_ebnf_is_scanned_in_linear_time() -> None:
    # The slowest inputs to scan: tokens that open repeatedly and never end.
    for part in ('"\\', "[\\", "#", "(a", "root ::="):
        with pytest.raises(SchemaError):
            ebnf_grammar(part * (16_000 // len(part)))
