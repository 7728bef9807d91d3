"""JSON that every reader accepts: no NaN or Infinity, no lone surrogate, no nesting beyond a stack."""

import json
import re
import sys
from json.encoder import encode_basestring
from typing import Any, Final

# Deeper values stay text: Python's own reader, which most clients use, gives up when its stack is 1000 deep.
MAX_JSON_DEPTH: Final = 128

_SURROGATE = re.compile("[\ud800-\udfff]")
# An unclosed string runs to the end: stopping at its first quote again and again would take quadratic time.
_BRACKETS_AND_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class InvalidJsonError(ValueError):
    """The text is not JSON, or not JSON that every reader accepts."""


def clean(text: str) -> str:
    """`text` with lone surrogates, which UTF-8 cannot carry, replaced by U+FFFD."""
    if text.isascii():
        return text
    return _SURROGATE.sub("\ufffd", text)


def decode(text: str) -> Any:
    """The value `text` stands for. Raw newlines and the like are taken inside strings: models write them.

    A number beyond a double's range is the largest double. Raises InvalidJsonError if `text` is not JSON,
    holds an integer that Python refuses to read (more than 4300 digits), or is nested deeper than
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
    """`value` as JSON with Python's separators, which are the ones LongCat's template writes."""
    return clean(_encode(value))


def escape(text: str) -> str:
    """`text` as it stands between the quotes of a JSON string; escape(a + b) == escape(a) + escape(b)."""
    return encode_basestring(text)[1:-1]


def too_deep(text: str) -> bool:
    """Whether brackets outside double-quoted strings nest deeper than MAX_JSON_DEPTH."""
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
