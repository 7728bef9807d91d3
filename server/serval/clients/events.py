"""Server-sent events of an answer, each with its JSON decoded."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


class EventError(ValueError):
    """An event cannot be read; the message is a fault of the server."""


@dataclass(frozen=True)
class Event:
    """An event; `name` is that of its `event:` line, or empty. `data` is an object, or the text `[DONE]`."""

    name: str
    data: Any


def read_events(text: str) -> list[Event]:
    """Return the events of a stream, without comments. Raises `EventError`."""
    return list(_events(text.replace("\r\n", "\n")))


def _events(text: str) -> Iterator[Event]:
    blocks = text.split("\n\n")
    if blocks[-1].strip():
        raise EventError("the stream ends inside an event")
    for block in blocks:
        name, lines = "", []
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            if field == "event":
                name = value.removeprefix(" ")
            elif field == "data":
                lines.append(value.removeprefix(" "))
        if lines:
            yield Event(name, _decoded("\n".join(lines)))


def _decoded(data: str) -> Any:
    if data == "[DONE]":
        return data
    try:
        decoded = json.loads(data)
    except ValueError:
        raise EventError(f"data of an event is not JSON: {data[:60]!r}") from None
    if not isinstance(decoded, dict):
        raise EventError(f"data of an event is no object: {data[:60]!r}")
    return decoded
