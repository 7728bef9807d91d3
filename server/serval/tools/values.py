"""Converting the text of an argument to the JSON value that the schema asks for."""

import ast
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

from serval.schema import strict_json
from serval.schema.allowed_types import AllowedTypes
from serval.schema.json_schema import same_json

# Parsing a Python literal takes a hundred times the memory of its text. Longer ones stay text.
MAX_PYTHON_LITERAL: Final = 1 << 16
_MOST_INTEGER_BITS: Final = 13_000  # Python writes no integer of more than 4300 digits
_LARGEST_EXACT_INTEGER: Final = 2**53
_NOTHING: Final = object()
_PYTHON_CONSTANTS: Final = {"True": True, "False": False, "None": None}


def argument_json(text: str, allowed: AllowedTypes, is_valid: Callable[[Any], bool]) -> str:
    """Return JSON for the argument that the model wrote as `text`. The result is always valid JSON.

    If only strings are allowed, the result is `text`, verbatim. Otherwise it is the first valid candidate, or
    the first one if none is valid:

    1. for listed values (enum, const): the listed string equal to `text`, then the listed value equal to its
       JSON value;
    2. if strings and other types are allowed: the JSON value if it is of another type, then `text`;
    3. if strings are not allowed: the JSON value if it is of an allowed type, then the results of `_repaired`
       that are, then the JSON value of any type, then `text`;
    4. if the schema does not restrict types: the JSON value, then `text`.
    """
    if allowed.only_text:
        return strict_json.encode(text)
    parsed = _decoded(text)
    candidates = list(_candidates(text, parsed, allowed))
    chosen = next(filter(is_valid, candidates), candidates[0])
    if chosen is parsed and isinstance(chosen, float) and chosen == float(text):
        # Verbatim: 1.50 sent back as 1.5 would be different tokens and miss the prefix cache.
        return text.strip()
    return strict_json.encode(chosen)


def _candidates(text: str, parsed: Any, allowed: AllowedTypes) -> Iterator[Any]:
    if allowed.choices is not None:
        yield from _chosen(text, parsed, allowed.choices)
    takes_string = allowed.types is not None and "string" in allowed.types
    is_exact = parsed is not _NOTHING and _exactly_allowed(parsed, allowed)
    if is_exact and not (takes_string and isinstance(parsed, str)):
        yield parsed
    if takes_string:
        yield text
        return
    if allowed.types is not None and not is_exact:
        yield from filter(allowed.allows_type_of, _repaired(text, parsed))
    if parsed is not _NOTHING:
        yield parsed
    yield text


def _chosen(text: str, parsed: Any, choices: tuple[Any, ...]) -> Iterator[Any]:
    for candidate in (text, text.strip(), parsed):
        if candidate is not _NOTHING:
            yield from (choice for choice in choices if same_json(candidate, choice))


def _exactly_allowed(value: Any, allowed: AllowedTypes) -> bool:
    """Like `allows_type_of`, but 3.0 is not an integer, because many parsers would refuse it."""
    types = allowed.types
    if types is not None and isinstance(value, float) and "number" not in types:
        return False
    return allowed.allows_type_of(value)


def _repaired(text: str, parsed: Any) -> Iterator[Any]:
    """Yield likely meanings where strings are not allowed: `"3"` and 3.0 as 3, True, {'a': 1}."""
    bare = text.strip()
    if isinstance(parsed, str):
        inner = _decoded(parsed)
        if isinstance(inner, float):
            yield from _whole(inner)
        if inner is not _NOTHING:
            yield inner
        bare = parsed.strip()
    if isinstance(parsed, float):
        yield from _whole(parsed)
        yield parsed
    if bare in _PYTHON_CONSTANTS:
        yield _PYTHON_CONSTANTS[bare]
    if bare[:1] in ("{", "[", "("):
        literal = _python_literal(bare)
        if literal is not _NOTHING:
            yield literal


def _whole(number: float) -> Iterator[int]:
    if number.is_integer() and abs(number) <= _LARGEST_EXACT_INTEGER:
        yield int(number)


def _decoded(text: str) -> Any:
    try:
        return strict_json.decode(text)
    except strict_json.InvalidJsonError:
        return _NOTHING


def _python_literal(text: str) -> Any:
    """Evaluate a Python literal, with tuples as lists; _NOTHING if that fails or JSON has no form for it."""
    if len(text) > MAX_PYTHON_LITERAL or strict_json.too_deep(text):
        return _NOTHING
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes such as `'\d'` cause warnings
            return _as_json(ast.literal_eval(text), depth=0)
    except (_NotJsonError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _NOTHING  # the last two are caused by hostile nesting


class _NotJsonError(Exception):
    """A Python value that JSON cannot represent."""


def _as_json(value: Any, *, depth: int) -> Any:
    if depth > strict_json.MAX_JSON_DEPTH:
        raise _NotJsonError
    match value:
        case None | bool() | str():
            return value
        case int() if value.bit_length() <= _MOST_INTEGER_BITS:
            return value
        case float() if math.isfinite(value):
            return value
        case list() | tuple():
            return [_as_json(item, depth=depth + 1) for item in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {key: _as_json(item, depth=depth + 1) for key, item in value.items()}
    raise _NotJsonError
