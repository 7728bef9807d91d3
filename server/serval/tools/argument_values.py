"""Where the text of one argument goes while it arrives."""

from typing import Protocol

from serval.tools.parameters import ParameterSchema
from serval.tools.sink import ArgumentsWriter


class ArgumentValue(Protocol):
    """Takes an argument's text in pieces."""

    def write(self, text: str) -> None: ...

    def close(self) -> None: ...


class StreamedString:
    """Only strings are admitted, so each piece can be passed on as it comes."""

    __slots__ = ("_writer",)

    def __init__(self, key: str, writer: ArgumentsWriter) -> None:
        self._writer = writer
        writer.open_string(key)

    def write(self, text: str) -> None:
        self._writer.string(text)

    def close(self) -> None:
        self._writer.close_string()


class TypedValue:
    """Which JSON type it is shows only at the end, so nothing is passed on before."""

    __slots__ = ("_key", "_parameters", "_pieces", "_writer")

    def __init__(self, key: str, parameters: ParameterSchema, writer: ArgumentsWriter) -> None:
        self._key = key
        self._parameters = parameters
        self._writer = writer
        self._pieces: list[str] = []

    def write(self, text: str) -> None:
        self._pieces.append(text)

    def close(self) -> None:
        self._writer.whole(self._key, self._parameters.argument_json(self._key, "".join(self._pieces)))


class DroppedValue:
    """Belongs to no argument: the key is missing or repeated, or the tool is not declared."""

    def write(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass
