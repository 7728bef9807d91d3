"""Lengths of a workload's prompts and answers, from any of the files that can hold them.

| file | each line or turn has |
| --- | --- |
| conversations (`serval.workload_files.conversations`) | `prompt_tokens`, `output_tokens`, `pause_s` |
| the gateway's log | `prompt_tokens`, `cached_tokens`, `completion_tokens`, `time`, `duration_ms` |
| JSON Lines | `prompt`, `output`; `cached`, `at` |
| CSV with a header | the same columns as JSON Lines |

`at` is the arrival in seconds after any beginning. In the gateway's log, other lines than those of requests
are skipped, and so are requests that generated nothing; a request arrived at `time` less `duration_ms`.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from serval.workload_files.conversations import (
    Conversation,
    Message,
    Spawn,
    parse_conversations,
    parse_document,
)
from serval.workload_files.errors import WorkloadFileError

# Length of an answer that no file states; SGLang's DEFAULT_AGENTIC_OUTPUT_LEN.
DEFAULT_OUTPUT_TOKENS = 220
# Where a file states no length of a prompt, its text counts.
CHARACTERS_PER_TOKEN = 4
# System prompts are compared in pieces of so many characters.
_PIECE_CHARACTERS = 1024
_COLUMNS = "wanted prompt and output in tokens, and if known cached (tokens) and at (seconds)"
_NAMES = {
    "prompt": ("prompt", "prompt_tokens"),
    "output": ("output", "output_tokens", "completion_tokens"),
    "cached": ("cached", "cached_tokens"),
}


@dataclass(frozen=True)
class Call:
    """One request, in tokens. `cached`: as logged; None if the cache is to be worked out from the session."""

    prompt: int
    output: int
    cached: int | None = None
    pause_s: float = 0.0


@dataclass(frozen=True)
class Session:
    """Calls in order: each begins `pause_s` after the end of the one before, with its prompt in front.

    - `start_s`: arrival of the first; None if the file says nothing about arrivals
    - `prefix`: chained hashes of the pieces of the system prompt, each of `piece_tokens` tokens; sessions
      whose lists begin alike share so much of their prompts
    - `after`: the session and call that start this one, for subagents
    """

    calls: tuple[Call, ...]
    start_s: float | None = None
    prefix: tuple[int, ...] = ()
    piece_tokens: float = 0.0
    after: Spawn | None = None


@dataclass(frozen=True)
class Workload:
    """Sessions of a file, and notes on what had to be assumed about them."""

    sessions: tuple[Session, ...]
    notes: tuple[str, ...] = ()

    @property
    def calls(self) -> Iterator[Call]:
        """All calls of all sessions."""
        return (call for session in self.sessions for call in session.calls)

    @property
    def timed(self) -> bool:
        """True if the file says when its requests arrived."""
        return any(session.start_s is not None for session in self.sessions)


def read_workload(path: Path, *, output_tokens: int = DEFAULT_OUTPUT_TOKENS) -> Workload:
    """Read the lengths of any such file; `output_tokens` is for answers of unknown length.

    Raises `OSError`, or `WorkloadFileError` with line and remedy.
    """
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise WorkloadFileError(path, 1, f"the file is empty; {_COLUMNS}")
    if text.lstrip()[0] != "{":
        return _from_rows(path, _csv_rows(path, text))
    first = text.lstrip().partition("\n")[0]
    if _is_row(first):
        return _from_rows(path, _json_rows(path, text))
    conversations = parse_conversations(path, text, parse_document(path, text))
    return lengths_of(conversations, output_tokens=output_tokens)


def lengths_of(
    conversations: Sequence[Conversation], *, output_tokens: int = DEFAULT_OUTPUT_TOKENS
) -> Workload:
    """Return the lengths of conversations."""
    turns = [turn for conversation in conversations for turn in conversation.turns]
    unknown = sum(not turn.prompt_tokens for turn in turns)
    guessed = sum(turn.output_tokens is None for turn in turns)
    notes = []
    if unknown:
        notes.append(f"{unknown:,} prompts without prompt_tokens: {CHARACTERS_PER_TOKEN} characters a token")
    if guessed:
        notes.append(f"{guessed:,} answers without output_tokens: {output_tokens} tokens each")
    return Workload(tuple(_session(one, output_tokens) for one in conversations), tuple(notes))


def _session(conversation: Conversation, output_tokens: int) -> Session:
    calls = []
    known = 0
    for turn in conversation.turns:
        new = sum(len(_text(message)) for message in turn.messages) // CHARACTERS_PER_TOKEN
        prompt = max(turn.prompt_tokens or known + new, 1)
        output = turn.output_tokens or output_tokens
        calls.append(Call(prompt, output, pause_s=turn.pause_s))
        known = prompt + output
    if not calls:
        return Session(())
    first = conversation.turns[0].messages
    system = "".join(_text(message) for message in first if message["role"] == "system")
    tokens_per_character = calls[0].prompt / max(sum(len(_text(message)) for message in first), 1)
    return Session(
        tuple(calls),
        prefix=tuple(_chain(system)),
        piece_tokens=_PIECE_CHARACTERS * tokens_per_character,
        after=conversation.after,
    )


def _chain(text: str) -> Iterator[int]:
    so_far = 0
    for start in range(0, len(text) - _PIECE_CHARACTERS + 1, _PIECE_CHARACTERS):
        so_far = hash((so_far, text[start : start + _PIECE_CHARACTERS]))
        yield so_far


def _text(message: Message) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _is_row(line: str) -> bool:
    """True if the line is a JSON object of its own, but no trace of conversations in one line."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return False
    return isinstance(row, dict) and "conversations" not in row


Row = Mapping[str, Any]


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise WorkloadFileError(
                path, number, f"this line is not JSON ({error.msg}); {_COLUMNS}"
            ) from None
        if not isinstance(row, dict):
            raise WorkloadFileError(path, number, f"this line is no JSON object; {_COLUMNS}")
        if row.get("event", "request") == "request":
            yield number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = {name.strip() for name in reader.fieldnames or ()}
    if not all(columns & set(_NAMES[name]) for name in ("prompt", "output")):
        raise WorkloadFileError(path, 1, f"the header is {', '.join(sorted(columns))}; {_COLUMNS}")
    for row in reader:
        yield reader.line_num, {name.strip(): value for name, value in row.items() if name and value}


def _from_rows(path: Path, rows: Iterable[tuple[int, Row]]) -> Workload:
    sessions, skipped = [], 0
    timed: bool | None = None
    for number, row in rows:
        prompt, output, cached = (_tokens(path, number, row, name) for name in _NAMES)
        at = _arrival_s(path, number, row)
        if timed not in (None, at is not None):
            raise WorkloadFileError(
                path, number, "some lines have an arrival and some have none; give all one"
            )
        timed = at is not None
        if prompt is None or output is None:
            raise WorkloadFileError(path, number, f"prompt or output is missing; {_COLUMNS}")
        if not prompt or not output:
            skipped += 1
            continue
        if (cached or 0) > prompt:
            raise WorkloadFileError(
                path, number, f"cached is {cached}, more than the prompt's {prompt} tokens"
            )
        sessions.append(Session((Call(prompt, output, cached or 0),), start_s=at))
    if not sessions:
        raise WorkloadFileError(path, 1, f"no line has a prompt and an answer; {_COLUMNS}")
    first = min(session.start_s or 0.0 for session in sessions)
    moved = [
        Session(one.calls, None if one.start_s is None else one.start_s - first)
        for one in sorted(sessions, key=lambda one: one.start_s or 0.0)
    ]
    notes = (f"{skipped:,} requests that generated nothing are left out",) if skipped else ()
    return Workload(tuple(moved), notes)


def _tokens(path: Path, number: int, row: Row, name: str) -> int | None:
    value = next((row[alias] for alias in _NAMES[name] if row.get(alias) is not None), None)
    if value is None:
        return None
    try:
        count = float(value)
    except (TypeError, ValueError):
        count = -1.0
    if not 0 <= count < 1e9 or count != int(count):
        problem = f"{name} must be a whole number of tokens, got {value!r}; correct it or take the line out"
        raise WorkloadFileError(path, number, problem)
    return int(count)


def _arrival_s(path: Path, number: int, row: Row) -> float | None:
    try:
        if row.get("at") is not None:
            at = float(row["at"])
            if not math.isfinite(at):
                raise ValueError
            return at
        if row.get("time") is not None:
            ended = datetime.fromisoformat(row["time"].replace("Z", "+00:00")).timestamp()
            return ended - float(row.get("duration_ms") or 0) / 1e3
    except (TypeError, ValueError, AttributeError):
        problem = "at must be in seconds, or time as the gateway logs it (2026-01-31T12:00:00.000Z)"
        raise WorkloadFileError(path, number, f"{problem}; correct the line") from None
    return None
