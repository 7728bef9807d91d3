"""Kinds of sessions. A session is one user, whose next request is made from the previous answer.

Text consists of random common words of one token each, so that no cache helps where none would in production.
Lengths are in words.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# One token each in the demo model's tokenizer, and in any that was trained on English.
_WORDS = """
the of and to in is that it for on are as with at this have or by not what all when can an do about
""".split()  # noqa: SIM905  # a list of words is read as words
_TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file of the repository.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}},
            "required": ["path"],
        },
    },
}


@dataclass(frozen=True)
class Turn:
    """A request of a session, without `model` and `stream`."""

    body: dict[str, Any]
    # Seconds that the user or the tool takes before the request.
    pause_s: float = 0.0


@dataclass
class LastAnswer:
    """Calls of the latest answer: the driver sets them, the session reads them before its next turn."""

    # Name and arguments of each call.
    calls: list[list[str]] = field(default_factory=list)


Session = Iterator[Turn]
Conversation = Callable[[random.Random, LastAnswer], Session]


def words(source: random.Random, count: int) -> str:
    """`count` random words."""
    return " ".join(source.choices(_WORDS, k=count))


def chat(source: random.Random, previous: LastAnswer, *, prompt: int = 512, answer: int = 128) -> Session:
    """One question and one answer, by default 512 tokens in and 128 out."""
    yield Turn({"messages": [_user(words(source, prompt))], "max_tokens": answer})


def agent(
    source: random.Random, previous: LastAnswer, *, first: int = 4096, last: int = 65_536, turns: int = 8
) -> Session:
    """An agent that reads files: the result of each turn's call makes the next prompt longer."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"You mend code. {words(source, first)}"},
        _user(words(source, 40)),
    ]
    grows = max(last - first, 0) // max(turns - 1, 1)
    for turn in range(turns):
        asks_call = turn < turns - 1
        body = {"messages": list(messages), "max_tokens": 200, "tools": [_TOOL]}
        body["tool_choice"] = "required" if asks_call else "auto"
        yield Turn(body, pause_s=0.0 if turn == 0 else source.uniform(0.0, 0.2))
        if not asks_call:
            return
        call = previous.calls[0] if previous.calls else ["read_file", "{}"]
        name = f"call_{turn:08d}"
        function = {"name": call[0], "arguments": call[1] or json.dumps({"path": "a.py"})}
        messages.append(
            {"role": "assistant", "tool_calls": [{"id": name, "type": "function", "function": function}]}
        )
        messages.append({"role": "tool", "tool_call_id": name, "content": words(source, grows)})


def repository(
    source: random.Random, previous: LastAnswer, *, shortest: int = 100_000, longest: int = 256_000
) -> Session:
    """Two questions about one code base, whose 100K to 256K tokens the second shares with the first."""
    code = words(source, source.randint(shortest, longest))
    for _ in range(2):
        yield Turn({"messages": [_user(f"{code}\n{words(source, 30)}")], "max_tokens": 256})


def short(source: random.Random, previous: LastAnswer) -> Session:
    """A short question, as from monitors and autocompletion."""
    yield Turn({"messages": [_user(words(source, 32))], "max_tokens": 16})


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


CONVERSATIONS: Mapping[str, Conversation] = {
    "chat": chat,
    "agent": agent,
    "repository": repository,
    "short": short,
}
# Tenants of a mixed load: kind and share of the sessions.
MIXED = (("chat", 0.70), ("short", 0.22), ("agent", 0.07), ("repository", 0.01))
WORKLOADS = ("chat", "agent", "repository", "burst", "mixed")


def kind_of(workload: str, source: random.Random) -> str:
    """Kind of the next session of `workload`."""
    if workload == "mixed":
        return source.choices([kind for kind, _ in MIXED], [share for _, share in MIXED])[0]
    return "chat" if workload == "burst" else workload
