"""Conversations of agents: reading, writing, cutting, and errors with line and remedy."""

import json
from pathlib import Path
from typing import Any

import pytest

from serval.workload_files import (
    Conversation,
    Spawn,
    Turn,
    WorkloadFileError,
    cut,
    read_conversations,
    write_conversations,
)


def turn(text: str = "hello", **given: Any) -> Turn:
    return Turn(({"role": "user", "content": text},), **given)


def written(path: Path, conversations: Any) -> Path:
    """Write a file with a line for each value, so that lines of errors differ."""
    path.write_text(json.dumps({"conversations": conversations}, indent=1))
    return path


def test_conversations_survive_writing_and_reading(tmp_path: Path) -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "be short"}]}
    given = [
        Conversation((Turn((system, *turn().messages), 100, 20), turn("more", pause_s=2.5))),
        Conversation((turn(), turn()), after=Spawn(0, 1)),
    ]
    path = tmp_path / "trace.json"
    write_conversations(path, given, metadata={"seed": 3})
    assert read_conversations(path) == given
    assert json.loads(path.read_text())["metadata"] == {"seed": 3}


def test_reader_takes_what_sglang_takes(tmp_path: Path) -> None:
    """Turns without messages are left out, and unknown keys are not looked at."""
    message = {"role": "tool", "content": "x", "tool_call_id": "c1"}
    turns = [
        {"messages": [message], "prompt_tokens": 7, "model": "m"},
        {"messages": []},
        {},
        {"messages": "hi"},
    ]
    found = read_conversations(written(tmp_path / "trace.json", [turns, []]))
    assert found == [
        Conversation((Turn(({"role": "tool", "content": "x"},), 7), turn("hi"))),
        Conversation(()),
    ]


GOOD = {"messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("conversations", "line", "says"),
    [
        ([[GOOD], 7], 13, r"conversation 1 must be a list of turns, got int; wanted"),
        ([["x"]], 4, r"turn 0 of conversation 0 must be an object, got str; wanted"),
        ([[{"messages": {"role": "user"}}]], 5, r"messages must be a list, got dict; wanted"),
        ([[{"messages": [{"content": "x"}]}]], 6, r"give each message a role"),
        ([[{"messages": [{"role": "user", "content": None}]}]], 6, r"leave out images and calls"),
        ([[{**GOOD, "pause_s": -1}]], 11, r"pause_s must be a number of at least 0, got -1; correct it"),
        ([[{**GOOD, "output_tokens": True}]], 11, r"output_tokens must be a number of at least 1, got True"),
        ([[{**GOOD, "after": 3}]], 11, r'after must be \{"conversation": 0, "turn": 4\}, got 3'),
        (
            [[{**GOOD, "after": {"conversation": 0, "turn": 0}}]],
            11,
            r"turn 0 of conversation 0, which does not",
        ),
        (
            [[GOOD], [{**GOOD, "after": {"conversation": 0, "turn": 1}}]],
            21,
            r"does not exist before conv.* 1",
        ),
        ([[{}], []], 2, r"no conversation has a turn with messages; wanted"),
    ],
)
def test_reader_names_line_and_remedy(tmp_path: Path, conversations: Any, line: int, says: str) -> None:
    path = written(tmp_path / "trace.json", conversations)
    with pytest.raises(WorkloadFileError, match=rf"trace.json:{line}: .*{says}"):
        read_conversations(path)


def test_reader_names_the_line_of_broken_json_and_a_missing_list(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text('{"conversations": [\n[\n}')
    with pytest.raises(WorkloadFileError, match=r"trace.json:3: this is not JSON .*wanted"):
        read_conversations(path)
    path.write_text("[]")
    with pytest.raises(WorkloadFileError, match=r"trace.json:1: no list 'conversations'; wanted"):
        read_conversations(path)


def test_cut_keeps_subagents_of_kept_turns_and_numbers_them_anew() -> None:
    given = [
        Conversation((turn("a"), turn("b"), turn("c"))),
        Conversation((turn("late"),), after=Spawn(0, 2)),
        Conversation((turn("d"),)),
        Conversation((turn("early"), turn("x"), turn("y")), after=Spawn(2, 0)),
        Conversation((turn("e"),)),
    ]
    assert cut(given, count=2, turns=2) == [
        Conversation((turn("a"), turn("b"))),
        Conversation((turn("d"),)),
        Conversation((turn("early"), turn("x")), after=Spawn(1, 0)),
    ]
