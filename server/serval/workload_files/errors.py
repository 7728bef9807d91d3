"""The error of a workload file, and the line at which a value of a JSON document begins."""

import json
from collections.abc import Sequence
from pathlib import Path

_SPACE = " \t\r\n"
_decoder = json.JSONDecoder()


class WorkloadFileError(ValueError):
    """A file that cannot be read as a workload. The message names the line and the remedy."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}")


def line_of(text: str, steps: Sequence[str | int]) -> int:
    """Return the line, from 1 on, of the value that `steps` (keys and indexes) lead to in a JSON document.

    Python's decoder keeps no positions, so the document is walked again; only errors need that. A step that
    leads nowhere ends the walk, and the line is that of the value around it.
    """
    at = _skip(text, 0)
    for step in steps:
        inner = _member(text, at, step) if isinstance(step, str) else _element(text, at, step)
        if inner is None:
            break
        at = inner
    return text.count("\n", 0, at) + 1


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _element(text: str, at: int, index: int) -> int | None:
    if text[at] != "[":
        return None
    at = _skip(text, at + 1)
    for _ in range(index):
        if text[at] == "]":
            return None
        at = _skip(text, _decoder.raw_decode(text, at)[1])
        at = _skip(text, at + 1) if text[at] == "," else at
    return None if text[at] == "]" else at


def _member(text: str, at: int, key: str) -> int | None:
    if text[at] != "{":
        return None
    at = _skip(text, at + 1)
    while text[at] != "}":
        name, at = _decoder.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        if name == key:
            return at
        at = _skip(text, _decoder.raw_decode(text, at)[1])
        at = _skip(text, at + 1) if text[at] == "," else at
    return None
