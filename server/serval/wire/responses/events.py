"""Server-sent events of the Responses API, numbered from 0."""

from collections.abc import Mapping
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


class EventWriter:
    """Writes the events of one stream."""

    def __init__(self) -> None:
        self._number = 0

    def event(self, kind: str, fields: Mapping[str, Any]) -> bytes:
        """Return an event of the type `response.<kind>`."""
        name = f"response.{kind}"
        data = _encode({"type": name, **fields, "sequence_number": self._next()})
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)

    def delta(self, head: bytes, text: str) -> bytes:
        """Return an event with a piece of text; `head` is that of `delta_head`."""
        number = self._number
        self._number = number + 1
        return b'%b%b,"sequence_number":%d}\n\n' % (head, _encode(text), number)

    def _next(self) -> int:
        number = self._number
        self._number = number + 1
        return number


def delta_head(kind: str, fields: Mapping[str, Any]) -> bytes:
    """Return the part of an event before its text, made once: a stream has one for nearly every token."""
    name = f"response.{kind}"
    return b'event: %b\ndata: %b,"delta":' % (name.encode(), _encode({"type": name, **fields})[:-1])
