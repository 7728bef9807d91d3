"""Bounds on the number of JSON values in a body, checked before they are decoded.

Text decodes to about its own size, but an empty list of two bytes to 64, and an object to more. A body within
these bounds takes a few dozen megabytes at most, and is decoded within a few hundredths of a second, during
which nothing else runs.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from serval.errors import InvalidRequestError

# Objects and lists. A message with a tool call has four.
MAX_CONTAINERS: Final = 65_536
# Items of lists and fields of objects, nearly all of them token ids in the largest legitimate bodies.
MAX_VALUES: Final = 1 << 20


class _Parts(msgspec.Struct):
    """The fields of requests that may be large, undecoded."""

    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    tools: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    functions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    response_format: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prompt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_PIECE_BYTES: Final = 1 << 18
_NAMED_BYTES: Final = 8 << 20
_ESCAPE_ENDS: Final = re.compile(rb"[^\\]")
_parts_decoder = msgspec.json.Decoder(_Parts)


def check_body_size(body: bytes) -> None:
    """Raise `InvalidRequestError`, naming the field at fault, if a JSON body holds too many values.

    Bytes that are not JSON are left to the decoder.
    """
    if len(body) <= MAX_CONTAINERS:
        return
    excess = _excess(body)
    if excess is not None:
        raise _too_many(excess, _field_at_fault(body))


def check_texts_size(texts: Sequence[bytes], *, param: str) -> None:
    """Raise `InvalidRequestError` if JSON texts that the field `param` stands for hold too many values."""
    excess = _excess(*texts)
    if excess is not None:
        raise _too_many(excess, param)


def check_arguments_size(arguments: Sequence[str], *, param: str = "messages") -> None:
    """Raise `InvalidRequestError` if the arguments of a conversation's calls hold too many values together.

    They are JSON texts in the field `param`, which are decoded when the conversation is rendered.
    """
    if sum(map(len, arguments)) <= MAX_CONTAINERS:
        return
    check_texts_size([text.encode(errors="surrogatepass") for text in arguments], param=param)


def _field_at_fault(body: bytes) -> str | None:
    # Finding the fields of a body takes a few milliseconds for each megabyte, in one step.
    if len(body) > _NAMED_BYTES:
        return None
    try:
        parts = _parts_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for name in _Parts.__struct_fields__:
        part = getattr(parts, name)
        if part is not msgspec.UNSET and _excess(bytes(part)) is not None:
            return name
    return None


def _too_many(excess: str, param: str | None) -> InvalidRequestError:
    return InvalidRequestError(
        f"{'The request body' if param is None else repr(param)} holds more than {excess}, the most this"
        " server reads in one request. Send less at a time.",
        param=param,
        code="too_many_values",
    )


def _excess(*texts: bytes) -> str | None:
    """Return which bound the JSON texts exceed together, None if they exceed none."""
    # Characters inside of strings count too at first, because that is quicker and nearly always suffices.
    containers = values = 0
    for text in texts:
        for piece in _pieces(text):
            containers += _containers(piece)
            values += _values(piece)
    if containers <= MAX_CONTAINERS and values <= MAX_VALUES:
        return None
    containers = values = 0
    for text in texts:
        for outside in _outside_of_strings(text):
            containers += _containers(outside)
            values += _values(outside)
            if values > MAX_VALUES:
                return f"{MAX_VALUES} values"
            if containers > MAX_CONTAINERS:
                return f"{MAX_CONTAINERS} objects and lists"
    return None


def _outside_of_strings(text: bytes) -> Iterator[bytes]:
    inside = 0
    for piece in _pieces(text):
        quoted = piece.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        yield b"".join(quoted[inside::2])
        inside ^= (len(quoted) - 1) % 2


def _pieces(text: bytes) -> Iterator[bytes]:
    """Cut JSON text where no escape is cut. Between pieces other threads can run."""
    start = 0
    while start < len(text):
        end = _ESCAPE_ENDS.search(text, start + _PIECE_BYTES)
        stop = len(text) if end is None else end.end()
        yield text[start:stop]
        start = stop


def _containers(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


def _values(text: bytes) -> int:
    # Each item but a container's first follows a comma.
    return text.count(b",")
