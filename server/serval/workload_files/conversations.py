"""Conversations of agents in SGLang 0.5.23's trace format (`sglang/benchmark/datasets/agentic_trace.py`).

    {"metadata": {...},
     "conversations": [[{"messages": [{"role": "system", "content": "..."}, ...], "prompt_tokens": 24775},
                        {"messages": [{"role": "user", "content": "..."}], "prompt_tokens": 25367}],
                       ...]}

A conversation is a list of turns. The messages of a turn are those that are new in it; the answers of the
server that the trace is replayed against come between. `prompt_tokens` counts the whole prompt of the turn.
Like SGLang's loader, this one leaves out turns without messages.

Serval adds three keys to a turn, all optional, which SGLang's loader does not look at:

- `output_tokens`: length of the answer; SGLang gives every turn the same, 220 by default
- `pause_s`: seconds that a tool or a user takes before the turn; SGLang pauses nowhere
- `after`, in the first turn: `{"conversation": 0, "turn": 4}` makes the conversation a subagent's. It begins
  when that turn (from 0, counting turns with messages) of that conversation has been answered, and the next
  turn there waits for its end. SGLang replays it as a conversation of its own
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serval.workload_files.errors import WorkloadFileError, line_of

_FORM = (
    'wanted {"conversations": [[{"messages": [{"role": "user", "content": "..."}], "prompt_tokens": 100},'
    " ...], ...]}, the format of SGLang's agentic traces"
)
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Spawn:
    """The turn of a conversation that starts a subagent; both count from 0."""

    conversation: int
    turn: int


@dataclass(frozen=True)
class Turn:
    """New messages, each with `role` and `content`, and the lengths that the file states.

    - `prompt_tokens`: of the whole prompt; 0 if unknown
    - `output_tokens`: of the answer; None if unknown
    """

    messages: tuple[Message, ...]
    prompt_tokens: int = 0
    output_tokens: int | None = None
    pause_s: float = 0.0


@dataclass(frozen=True)
class Conversation:
    """Turns of an agent, or of a subagent that begins after a turn of another conversation."""

    turns: tuple[Turn, ...]
    after: Spawn | None = None


def read_conversations(path: Path) -> list[Conversation]:
    """Read a trace. Raises `OSError`, or `WorkloadFileError` with line and remedy."""
    text = path.read_text(encoding="utf-8")
    return parse_conversations(path, text, parse_document(path, text))


def parse_document(path: Path, text: str) -> Any:
    """Parse the JSON document `text` of the file `path`. Raises `WorkloadFileError`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise WorkloadFileError(path, error.lineno, f"this is not JSON ({error.msg}); {_FORM}") from None


def parse_conversations(path: Path, text: str, document: Any) -> list[Conversation]:
    """Parse a JSON document, which is `text`. Raises `WorkloadFileError`."""
    reader = _Reader(path, text)
    listed = document.get("conversations") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise reader.error((), f"no list 'conversations'; {_FORM}")
    found = [reader.conversation(index, turns) for index, turns in enumerate(listed)]
    if not any(conversation.turns for conversation in found):
        raise reader.error(("conversations",), f"no conversation has a turn with messages; {_FORM}")
    for index, conversation in enumerate(found):
        reader.check_spawn(index, conversation, found)
    return found


def cut(conversations: Sequence[Conversation], *, count: int, turns: float) -> list[Conversation]:
    """Keep the first `count` sessions of agents and the first `turns` of each, with their subagents."""
    places: dict[int, int] = {}
    found: list[Conversation] = []
    for number, one in enumerate(conversations):
        after = one.after
        if after is None:
            if count <= 0:
                continue
            count -= 1
        else:
            parent = places.get(after.conversation)
            if parent is None or after.turn >= len(found[parent].turns):
                continue
            after = Spawn(parent, after.turn)
        places[number] = len(found)
        found.append(Conversation(one.turns[: int(min(turns, len(one.turns)))], after))
    return found


def write_conversations(
    path: Path, conversations: Iterable[Conversation], *, metadata: Mapping[str, Any]
) -> None:
    """Write a trace that this module and SGLang's loader read, a conversation a line. Raises `OSError`."""
    lines = ",\n".join(json.dumps([*map(_as_object, _turns(one))]) for one in conversations)
    path.write_text(f'{{"metadata": {json.dumps(metadata)},\n"conversations": [\n{lines}\n]}}\n')


def _turns(conversation: Conversation) -> list[tuple[Turn, Spawn | None]]:
    return [(turn, None if place else conversation.after) for place, turn in enumerate(conversation.turns)]


def _as_object(entry: tuple[Turn, Spawn | None]) -> dict[str, Any]:
    turn, after = entry
    written: dict[str, Any] = {"messages": list(turn.messages), "prompt_tokens": turn.prompt_tokens}
    if turn.output_tokens is not None:
        written["output_tokens"] = turn.output_tokens
    if turn.pause_s:
        written["pause_s"] = turn.pause_s
    if after is not None:
        written["after"] = {"conversation": after.conversation, "turn": after.turn}
    return written


@dataclass(frozen=True)
class _Reader:
    path: Path
    text: str

    def error(self, steps: Sequence[str | int], problem: str) -> WorkloadFileError:
        return WorkloadFileError(self.path, line_of(self.text, steps), problem)

    def conversation(self, index: int, turns: Any) -> Conversation:
        steps = ("conversations", index)
        if not isinstance(turns, list):
            raise self.error(
                steps, f"conversation {index} must be a list of turns, got {_kind(turns)}; {_FORM}"
            )
        for place, turn in enumerate(turns):
            if not isinstance(turn, dict):
                problem = (
                    f"turn {place} of conversation {index} must be an object, got {_kind(turn)}; {_FORM}"
                )
                raise self.error((*steps, place), problem)
        after = next((turn["after"] for turn in turns[:1] if "after" in turn), None)
        return Conversation(
            tuple(
                self._turn((*steps, place), turn) for place, turn in enumerate(turns) if turn.get("messages")
            ),
            None if after is None else self._spawn((*steps, 0, "after"), after),
        )

    def _turn(self, steps: tuple[str | int, ...], turn: Mapping[str, Any]) -> Turn:
        given = turn["messages"]
        listed = [{"role": "user", "content": given}] if isinstance(given, str) else given
        if not isinstance(listed, list):
            raise self.error((*steps, "messages"), f"messages must be a list, got {_kind(given)}; {_FORM}")
        output = self._number(steps, turn, "output_tokens", least=1)
        return Turn(
            tuple(self._message((*steps, "messages", place), one) for place, one in enumerate(listed)),
            prompt_tokens=int(self._number(steps, turn, "prompt_tokens", least=0) or 0),
            output_tokens=None if output is None else int(output),
            pause_s=float(self._number(steps, turn, "pause_s", least=0) or 0),
        )

    def _message(self, steps: tuple[str | int, ...], message: Any) -> Message:
        wanted = 'a message must be {"role": "...", "content": "..."}'
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise self.error(steps, f"{wanted}; give each message a role")
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
            raise self.error(
                steps, f"{wanted} with text, or a list of text parts; leave out images and calls"
            )
        return {"role": message["role"], "content": content}

    def _number(
        self, steps: tuple[str | int, ...], turn: Mapping[str, Any], name: str, *, least: int
    ) -> float | None:
        value = turn.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e9:
            problem = (
                f"{name} must be a number of at least {least}, got {value!r}; correct it or leave it out"
            )
            raise self.error((*steps, name), problem)
        return value

    def _spawn(self, steps: tuple[str | int, ...], after: Any) -> Spawn:
        given = after if isinstance(after, dict) else {}
        conversation, turn = given.get("conversation"), given.get("turn")
        if type(conversation) is int and type(turn) is int and min(conversation, turn) >= 0:
            return Spawn(conversation, turn)
        raise self.error(steps, f'after must be {{"conversation": 0, "turn": 4}}, got {after!r}')

    def check_spawn(self, index: int, conversation: Conversation, all_of: Sequence[Conversation]) -> None:
        after = conversation.after
        if after is None:
            return
        # Earlier conversations only, so that none waits for itself.
        if after.conversation >= index or after.turn >= len(all_of[after.conversation].turns):
            problem = (
                f"after names turn {after.turn} of conversation {after.conversation}, which does not exist"
                f" before conversation {index}; name a turn of an earlier conversation, counted from 0"
            )
            raise self.error(("conversations", index, 0, "after"), problem)


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
