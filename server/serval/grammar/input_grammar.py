"""Grammars for the input of custom tools: a regular expression, or rules in Lark's syntax."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from serval.grammar.free_grammar import MAX_REGEX_CHARACTERS
from serval.grammar.lark_grammar import NotEnforceableError, lark_node
from serval.grammar.pattern import Node, PatternError, parse
from serval.grammar.pattern_ambiguity import check_ambiguity
from serval.schema.error import SchemaError

# Name of a custom tool's one argument.
CUSTOM_INPUT: Final = "input"


def input_node(syntax: str, definition: str) -> Node:
    """Return the pattern of the texts that the grammar describes.

    Raises `SchemaError`, with an empty path, for a grammar that is too large or would keep the decoder busy
    for ever; `NotEnforceableError` for one that is no pattern.
    """
    if syntax == "lark":
        return lark_node(definition)
    if syntax == "regex":
        return _regex_node(definition)
    raise NotEnforceableError(f"its syntax is {syntax!r:.50}")


@lru_cache(maxsize=64)
def _regex_node(definition: str) -> Node:
    if len(definition) > MAX_REGEX_CHARACTERS:
        raise SchemaError("", f"it has more than {MAX_REGEX_CHARACTERS} characters")
    try:
        node = parse(f"^(?:{definition})$")
    except PatternError as error:
        raise NotEnforceableError(str(error)) from None
    try:
        check_ambiguity(node, definition)
    except PatternError as error:
        raise SchemaError("", str(error)) from None
    return node
