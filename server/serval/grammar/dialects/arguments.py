"""Names and arguments of calls: the rules that all dialects share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from serval.grammar.constraints import Schema
from serval.grammar.enforceable import Rewriter, satisfiable
from serval.schema import strict_json
from serval.schema.error import SchemaError, UnsatisfiableError

T = TypeVar("T")


def writable_name(function: Mapping[str, Any], is_writable: Callable[[str], bool]) -> str:
    """Return the function's name. Raises SchemaError if it cannot be written in a call."""
    name = function.get("name")
    if not isinstance(name, str) or not is_utf8(name) or not is_writable(name):
        raise SchemaError(
            "tools", f"the name {name!r:.80} cannot be written in a call; use letters, digits, _ and -"
        )
    return name


def argument_options(
    parameters: Any, rewriter: Rewriter, path: str, write: Callable[[Schema, Rewriter, str], T]
) -> list[T] | None:
    """Return what `write` makes of each alternative of the arguments that some value satisfies.

    None if `parameters` cannot be enforced and are not strict. Raises SchemaError if they are strict, or
    describe no object.
    """
    try:
        objects = _argument_objects(parameters, rewriter, path)
        if objects is None:
            return None
        return satisfiable(partial(write, single, rewriter, path) for single in objects)
    except UnsatisfiableError:
        if rewriter.strict:
            raise
        return None


def _argument_objects(parameters: Any, rewriter: Rewriter, path: str) -> list[Schema] | None:
    """Return the constraints of the objects that `parameters` describe: one, or several alternatives.

    None if nothing of `parameters` can be enforced. Raises SchemaError if they describe no object.
    """
    objects: list[Schema] = []
    singles = rewriter.alternatives({} if parameters is None else parameters, path)
    if singles == [{}] and parameters and not rewriter.strict:
        return None  # they say something, and nothing that can be enforced
    for single in singles:
        if "enum" in single:
            objects += [_listed_object(value) for value in single["enum"] if isinstance(value, Mapping)]
        elif single.get("type", "object") == "object":
            objects.append(single)
    if singles and not objects:
        # Also where the schema is not strict: the model would be held to write something else.
        raise SchemaError(f"{path}/type", "arguments are an object; give the tool parameters of that type")
    if not objects:
        rewriter.refuse(path, "type", "arguments are an object")
        return None
    return objects


def _listed_object(value: Mapping[str, Any]) -> Schema:
    return {
        "type": "object",
        "properties": {name: {"enum": [part]} for name, part in value.items()},
        "required": list(value),
        "additionalProperties": False,
    }


def check_may_be_empty(single: Schema, path: str) -> None:
    """Raise UnsatisfiableError if an object without declared arguments requires some."""
    if single.get("minProperties", 0) > 0:
        raise UnsatisfiableError(f"{path}/minProperties", "it asks for arguments and declares none")


def is_utf8(text: str) -> bool:
    """Return True if UTF-8 can encode `text`, that is, if it holds no lone surrogate."""
    return text == strict_json.clean(text)
