"""Grammars for the input of custom tools: a regular expression, or rules in Lark's syntax."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from serval.grammar.compile_cost import Budget
from serval.grammar.free_grammar import MAX_REGEX_CHARACTERS
from serval.grammar.lark_grammar import NotEnforceableError, lark_node
from serval.grammar.pattern import Node, PatternError, parse
from serval.grammar.pattern_ambiguity import check_ambiguity
from serval.schema.error import SchemaError

# Name of a custom tool's one argument.
CUSTOM_INPUT: Final = "input"
# Milliseconds that reading a character takes.
_READING: Final = 0.01
# The gateway serves all its clients on one core, so a millisecond of its own counts as several of the engine.
_OWN_WORK: Final = 10.0


def input_node(syntax: str, definition: str, budget: Budget) -> Node:
    """Return the pattern of the texts that the grammar describes. Spends the gateway's work on it.

    Raises `SchemaError`, with an empty path, for a grammar that is too large, that would keep the decoder
    busy for ever, or for whose check too little is left; `NotEnforceableError` for one that is no pattern.
    """
    budget.spend(len(definition) * _READING * _OWN_WORK, "")
    node, work = _checked(syntax, definition)
    budget.spend(work * _OWN_WORK, "")
    return node


@lru_cache(maxsize=64)  # tools are sent again with each turn
def _checked(syntax: str, definition: str) -> tuple[Node, float]:
    """Return the pattern, and the milliseconds that its check took."""
    node = _node(syntax, definition)
    try:
        return node, check_ambiguity(node, definition)
    except PatternError as error:
        raise SchemaError("", str(error)) from None


def _node(syntax: str, definition: str) -> Node:
    if syntax == "lark":
        return lark_node(definition)
    if syntax != "regex":
        raise NotEnforceableError(f"its syntax is {syntax!r:.50}")
    if len(definition) > MAX_REGEX_CHARACTERS:
        raise SchemaError("", f"it has more than {MAX_REGEX_CHARACTERS} characters")
    try:
        return parse(f"^(?:{definition})$")
    except PatternError as error:
        raise NotEnforceableError(str(error)) from None
