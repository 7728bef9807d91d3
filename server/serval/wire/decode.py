"""Decoding JSON bodies to typed structs, with errors that name the field at fault."""

import re
from typing import TypeVar

import msgspec

from serval.errors import InvalidRequestError

T = TypeVar("T")

_AT_PATH = re.compile(r"^(?P<reason>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)


def decode_json(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """Decode `body`. Raises `InvalidRequestError` with `param` set to the path of the field at fault."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _validation_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            f"The request body is not valid JSON in UTF-8: {error}.", code="invalid_json"
        ) from None
    except RecursionError:
        raise InvalidRequestError(
            "The request body is nested too deeply to be read.", code="invalid_json"
        ) from None


def convert_json(value: object, kind: type[T]) -> T:
    """Convert decoded JSON. Raises `InvalidRequestError` as `decode_json` does."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _validation_error(str(error)) from None


def _validation_error(message: str) -> InvalidRequestError:
    located = _AT_PATH.match(message)
    reason, path = (located["reason"], located["path"]) if located else (message, "")
    if missing := _MISSING.match(reason):
        param = f"{path}.{missing['name']}" if path else missing["name"]
        return InvalidRequestError(
            f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
        )
    if unknown := _UNKNOWN.match(reason):
        param = f"{path}.{unknown['name']}" if path else unknown["name"]
        return InvalidRequestError(
            f"Unrecognized request argument supplied: {param[:200]!r}. This server refuses fields it does not"
            " know.",
            param=param[:200],
            code="unknown_parameter",
        )
    if not path:
        return InvalidRequestError(
            f"The request body is not what was expected: {reason}.", code="invalid_type"
        )
    reason = reason[:1].lower() + reason[1:]
    code = "invalid_type" if ", got `" in reason else "invalid_value"
    return InvalidRequestError(f"Invalid value for '{path}': {reason}.", param=path, code=code)
