"""The text of a custom tool's call, taken from the JSON of its arguments as it arrives."""

import json
import re
from typing import Final

from serval.grammar.input_grammar import CUSTOM_INPUT

_HEAD: Final = re.compile(rf'\s*\{{\s*"{CUSTOM_INPUT}"\s*:\s*"')
# Whole characters and escapes. Half of a surrogate pair waits for the other half.
_WHOLE: Final = re.compile(
    r'(?:[^"\\]+|\\(?:[^u]|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7c-fC-F][0-9a-fA-F]{2}'
    r"|[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})))*"
)


class CustomInput:
    """Reads `{"input": "..."}` in pieces. Other arguments are known only at their end, as their JSON."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        # Arguments that have not been read yet.
        self._rest = ""
        self._all: list[str] = []
        self._in_text = False
        self._ended = False

    def add(self, arguments: str) -> str:
        """Add a piece of the arguments' JSON, and return the text that it completes."""
        self._all.append(arguments)
        if self._ended:
            return ""
        self._rest += arguments
        if not self._in_text:
            head = _HEAD.match(self._rest)
            if head is None:
                return ""
            self._in_text = True
            self._rest = self._rest[head.end() :]
        whole = _WHOLE.match(self._rest)
        assert whole is not None  # it also matches nothing
        text: str = json.loads(f'"{whole[0]}"', strict=False)
        self._rest = self._rest[whole.end() :]
        self._ended = self._rest.startswith('"')
        if text:
            self._pieces.append(text)
        return text

    def text(self) -> str:
        """Return the whole text. Called at the end."""
        if self._in_text:
            return "".join(self._pieces)
        arguments = "".join(self._all)
        try:
            value = json.loads(arguments, strict=False)
        except (ValueError, RecursionError):
            return arguments
        text = value.get(CUSTOM_INPUT) if isinstance(value, dict) else None
        return text if isinstance(text, str) else arguments


def custom_input(arguments: str) -> str:
    """Return the text of a whole call."""
    made = CustomInput()
    made.add(arguments)
    return made.text()
