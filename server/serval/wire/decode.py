"""Decoding JSON bodies to typed structs, with errors that name the field at fault."""

import re
from codecs import getincrementaldecoder
from typing import Final, TypeVar

import msgspec

from serval.errors import InvalidRequestError

T = TypeVar("T")

_PIECE_BYTES: Final = 1 << 18

_AT_PATH = re.compile(r"^(?P<reason>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)


def decode_json(decoder: "msgspec.json.Decoder[T]", body: bytes | msgspec.Raw, *, below: str = "") -> T:
    """Decode `body`. Raises `InvalidRequestError` with `param` set to the path of the field at fault.

    `below` is the path of `body` itself, if it is a part of the request.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _validation_error(str(error), below=below) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            f"The request body is not valid JSON in UTF-8: {error}.", code="invalid_json"
        ) from None
    except RecursionError:
        raise InvalidRequestError(
            "The request body is nested too deeply to be read.", code="invalid_json"
        ) from None


def checked_utf8(body: bytes) -> bytes:
    """Return `body`. Raises `InvalidRequestError` if it is not UTF-8.

    The decoder does not look at texts that it passes over, and some of them are kept or sent back.
    """
    if body.isascii():
        return body
    reader = getincrementaldecoder("utf-8")()
    try:
        # Piece by piece: the text as a whole might take four times the memory of the body.
        for start in range(0, len(body), _PIECE_BYTES):
            reader.decode(body[start : start + _PIECE_BYTES])
        reader.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"The request body is not valid JSON in UTF-8: {error.reason}.", code="invalid_json"
        ) from None
    return body


def convert_json(value: object, kind: type[T], *, below: str = "") -> T:
    """Convert decoded JSON. `below` and errors are those of `decode_json`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _validation_error(str(error), below=below) from None


def missing_parameter(param: str) -> InvalidRequestError:
    """Return the error for a required field that is not there."""
    return InvalidRequestError(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def unknown_parameter(param: str) -> InvalidRequestError:
    """Return the error for a field that does not exist."""
    return InvalidRequestError(
        f"Unrecognized request argument supplied: {param[:200]!r}. This server refuses fields it does not"
        " know.",
        param=param[:200],
        code="unknown_parameter",
    )


def invalid_value(reason: str, path: str, *, code: str) -> InvalidRequestError:
    """Return the error for the value at `path`."""
    return InvalidRequestError(f"Invalid value for '{path}': {reason}.", param=path, code=code)


def _validation_error(message: str, *, below: str = "") -> InvalidRequestError:
    located = _AT_PATH.match(message)
    reason, path = (located["reason"], located["path"]) if located else (message, "")
    if below:
        path = f"{below}.{path}" if path and not path.startswith("[") else f"{below}{path}"
    if missing := _MISSING.match(reason):
        return missing_parameter(f"{path}.{missing['name']}" if path else missing["name"])
    if unknown := _UNKNOWN.match(reason):
        return unknown_parameter(f"{path}.{unknown['name']}" if path else unknown["name"])
    if not path:
        return InvalidRequestError(
            f"The request body is not what was expected: {reason}.", code="invalid_type"
        )
    code = "invalid_type" if ", got `" in reason else "invalid_value"
    return invalid_value(reason[:1].lower() + reason[1:], path, code=code)
