"""Sinks for the text of one argument, which arrives in pieces."""

from typing import Protocol

from serval.tools.parameters import ParameterSchema
from serval.tools.quoted import unquote
from serval.tools.sink import ArgumentsWriter


class ArgumentValue(Protocol):
    """Receives an argument's text in pieces."""

    def write(self, text: str) -> None: ...

    def close(self) -> None: ...


class StreamedString:
    """Passes each piece on as it arrives, for arguments that can only be strings."""

    __slots__ = ("_writer",)

    def __init__(self, key: str, writer: ArgumentsWriter) -> None:
        self._writer = writer
        writer.open_string(key)

    def write(self, text: str) -> None:
        self._writer.string(text)

    def close(self) -> None:
        self._writer.close_string()


class TypedValue:
    """Collects the text and passes the value on at the end, when its JSON type is known."""

    __slots__ = ("_key", "_parameters", "_pieces", "_writer")

    def __init__(self, key: str, parameters: ParameterSchema, writer: ArgumentsWriter) -> None:
        self._key = key
        self._parameters = parameters
        self._writer = writer
        self._pieces: list[str] = []

    def write(self, text: str) -> None:
        self._pieces.append(text)

    def close(self) -> None:
        text = unquote("".join(self._pieces))
        self._writer.whole(self._key, self._parameters.argument_json(self._key, text))


class DroppedValue:
    """Discards the text: the key is missing or repeated."""

    def write(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass
