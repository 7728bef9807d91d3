"""Names and arguments of calls: the rules that all dialects share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serval.grammar.constraints import Schema
from serval.grammar.enforceable import Rewriter
from serval.schema import strict_json
from serval.schema.error import SchemaError, UnsatisfiableError


def writable_name(function: Mapping[str, Any], is_writable: Callable[[str], bool]) -> str:
    """Return the function's name. Raises SchemaError if it cannot be written in a call."""
    name = function.get("name")
    if not isinstance(name, str) or not is_utf8(name) or not is_writable(name):
        raise SchemaError(
            "tools", f"the name {name!r:.80} cannot be written in a call; use letters, digits, _ and -"
        )
    return name


def arguments_object(parameters: Any, rewriter: Rewriter, path: str) -> Schema | None:
    """Return the constraints of the object that `parameters` describe.

    If they describe anything else, return None, or raise SchemaError if the schema is strict.
    """
    objects = rewriter.alternatives({} if parameters is None else parameters, path)
    if len(objects) != 1 or objects[0].get("type", "object") != "object":
        rewriter.refuse(path, "type", "arguments are one object, without alternatives")
        return None
    return objects[0]


def check_may_be_empty(single: Schema, path: str) -> None:
    """Raise UnsatisfiableError if an object without declared arguments requires some."""
    if single.get("minProperties", 0) > 0:
        raise UnsatisfiableError(f"{path}/minProperties", "it asks for arguments and declares none")


def is_utf8(text: str) -> bool:
    """Return True if UTF-8 can encode `text`, that is, if it holds no lone surrogate."""
    return text == strict_json.clean(text)
