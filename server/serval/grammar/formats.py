"""Formats that structural tags are built from (xgrammar 0.2.7, "Structural Tag")."""

from __future__ import annotations

from typing import Any, Final

from serval.grammar.constraints import Schema
from serval.grammar.enforceable import Rewriter
from serval.grammar.enforceable_scalars import WrittenPattern
from serval.grammar.json_rules import json_rules, needs_rules
from serval.grammar.pattern_rules import Rules, has_long_repetition, pattern_rule

Format = dict[str, Any]

EMPTY: Final[Format] = {"type": "const_string", "value": ""}
BLANK: Final[Format] = {"type": "regex", "pattern": r"\s*"}
# Models write JSON with Python's separators. Without a bound, an answer could end in endless spaces.
_MAX_WHITESPACE: Final = 1


def sequence(*parts: Format) -> Format:
    """Return the format of all parts in a row."""
    if not parts:
        return EMPTY
    return parts[0] if len(parts) == 1 else {"type": "sequence", "elements": list(parts)}


def json_value(schema: Schema, rewriter: Rewriter) -> Format:
    """Return the format of JSON that `schema`, a result of `rewriter`, admits."""
    definitions = rewriter.definitions_for(schema)
    whole = schema | ({"$defs": definitions} if definitions else {})
    return json_format(whole, whitespace=_MAX_WHITESPACE, avoid=rewriter.avoid)


def json_format(schema: Schema, *, whitespace: int, avoid: str) -> Format:
    """Return the format of JSON that a rewritten schema admits, with blanks of at most `whitespace`."""
    if needs_rules(schema):
        rules = json_rules(schema, schema.get("$defs", {}), whitespace=whitespace, avoid=avoid)
        return {"type": "grammar", "grammar": rules}
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": whitespace}


def text_format(written: WrittenPattern, *, avoid: str) -> Format:
    """Return the format of raw text that matches a pattern."""
    if not written:
        return EMPTY
    if not has_long_repetition(written.node):
        return {"type": "regex", "pattern": written}
    rules = Rules()
    root = pattern_rule(written.node, rules, in_json=False, avoid=avoid)
    return {"type": "grammar", "grammar": rules.text(root)}
