"""Formats that structural tags are built from (xgrammar 0.2.7, "Structural Tag")."""

from __future__ import annotations

from typing import Any, Final

from serval.grammar.constraints import Schema
from serval.grammar.enforceable import Rewriter

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
    return {
        "type": "json_schema",
        "json_schema": schema | ({"$defs": definitions} if definitions else {}),
        "max_whitespace_cnt": _MAX_WHITESPACE,
    }
