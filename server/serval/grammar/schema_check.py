"""Checking JSON Schemas before dispatch, so that no schema can hang or crash the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from serval.grammar.compile_cost import Budget
from serval.grammar.enforceable import Rewriter, pointer_part
from serval.schema.error import SchemaError

MAX_SCHEMA_DEPTH: Final = 64
MAX_SCHEMA_PARTS: Final = 20_000
MAX_LISTED_VALUES: Final = 5_000


def check_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    """Run `check_limits` on the parameters of every tool."""
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping):
            check_limits(function.get("parameters"), f"tools/{function.get('name')}/parameters")


def check_limits(schema: Any, path: str = "#") -> None:
    """Raise SchemaError, with the path, if a schema is too deep, too large or lists too many values.

    Takes linear time and does not recurse, so it comes before every other check.
    """
    nodes = listed = 0
    unread = [(schema, path, 0)]
    while unread:
        node, at, depth = unread.pop()
        nodes += 1
        if nodes > MAX_SCHEMA_PARTS:
            raise SchemaError(path, f"the schema has more than {MAX_SCHEMA_PARTS} parts; make it smaller")
        if depth > MAX_SCHEMA_DEPTH:
            raise SchemaError(at, f"nested deeper than {MAX_SCHEMA_DEPTH} levels; make it flatter")
        if isinstance(node, Mapping):
            values = node.get("enum")
            listed += len(values) if isinstance(values, list) else 0
            if listed > MAX_LISTED_VALUES:
                raise SchemaError(f"{at}/enum", f"more than {MAX_LISTED_VALUES} values are listed in all")
            unread += [(part, f"{at}/{pointer_part(str(key))}", depth + 1) for key, part in node.items()]
        elif isinstance(node, list):
            unread += [(part, f"{at}/{index}", depth + 1) for index, part in enumerate(node)]


def enforceable_schema(
    schema: Any, *, strict: bool, avoid: str, budget: Budget, path: str = "#"
) -> dict[str, Any]:
    """Rewrite `schema` into a form that the decoder enforces completely, for a reply that is one JSON value.

    `avoid`: characters that patterns may write only where they name them explicitly. `budget`: what is left
    for the schemas of the request.

    Raises SchemaError if it exceeds the limits, is not a schema, has references that do not resolve or are
    circular, admits no value, or (only if `strict`) has a part that cannot be enforced, such as a pattern
    that takes exponential time.
    """
    check_limits(schema, path)
    rewriter = Rewriter(schema, strict=strict, avoid=avoid, budget=budget)
    rewritten = rewriter.nested(schema, path)
    definitions = rewriter.definitions_for(rewritten)
    return rewritten | ({"$defs": definitions} if definitions else {})
