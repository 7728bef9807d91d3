"""JSON that every parser accepts: no NaN or Infinity, no lone surrogates, no extreme nesting."""

import json
import re
import sys
from json.encoder import encode_basestring
from typing import Any, Final

# Deeper values stay text: Python's own parser, which most clients use, fails at a stack depth of 1000.
MAX_JSON_DEPTH: Final = 128

_SURROGATE = re.compile("[\ud800-\udfff]")
# An unclosed string extends to the end: retrying from each of its quotes would take quadratic time.
_BRACKETS_AND_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class InvalidJsonError(ValueError):
    """The text is not JSON, or not JSON that every parser accepts."""


def clean(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    if text.isascii():
        return text
    return _SURROGATE.sub("\ufffd", text)


def decode(text: str) -> Any:
    """Decode `text`. Control characters are allowed inside strings, because models write them.

    A number beyond a double's range becomes the largest double. Raises InvalidJsonError if `text` is not
    JSON, holds an integer that Python refuses to read (more than 4300 digits), or is nested deeper than
    MAX_JSON_DEPTH.
    """
    if too_deep(text):
        raise InvalidJsonError(f"nested deeper than {MAX_JSON_DEPTH} levels")
    try:
        return json.loads(
            text,
            strict=False,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except ValueError as error:
        raise InvalidJsonError(str(error)) from error


def encode(value: Any) -> str:
    """Encode `value` with Python's separators, the ones LongCat's template writes."""
    return clean(_encode(value))


def escape(text: str) -> str:
    """Escape `text` for the inside of a JSON string; escape(a + b) == escape(a) + escape(b)."""
    return encode_basestring(text)[1:-1]


def too_deep(text: str) -> bool:
    """Return True if brackets outside double-quoted strings nest deeper than MAX_JSON_DEPTH."""
    if text.count("[") + text.count("{") <= MAX_JSON_DEPTH:
        return False
    depth = 0
    for found in _BRACKETS_AND_STRINGS.finditer(text):
        bracket = found.group()
        if bracket in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                return True
        elif bracket in "]}":
            depth -= 1
    return False


def _refuse_constant(name: str) -> Any:
    raise InvalidJsonError(f"{name} is not JSON")


def _finite_float(literal: str) -> float:
    return min(max(float(literal), -sys.float_info.max), sys.float_info.max)
