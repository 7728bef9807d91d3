"""SGLang loads traces that Serval writes, and its own are read here alike. No engine is started."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sglang.benchmark.datasets.agentic_trace import DEFAULT_AGENTIC_OUTPUT_LEN, AgenticTraceDataset

from serval.workload_files import read_conversations, read_workload, write_conversations
from serval.workload_files.lengths import DEFAULT_OUTPUT_TOKENS
from serval_load.workloads.session_shapes import Shape, sessions


def loaded(path: Path, **given: Any) -> list[Any]:
    """Return the rows that `sglang.benchmark.serving --dataset-name agentic-trace` would replay."""
    options = {"num_prompts": 0, "sharegpt_output_len": None, "dataset_offset": 0, "agentic_max_turns": None}
    args = SimpleNamespace(dataset_path=str(path), **{**options, **given})
    return list(AgenticTraceDataset.from_args(args).load(tokenizer=None))


def test_generated_sessions_load_in_sglang(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    given = sessions(Shape(subagent_share=1.0).scaled(0.005), 5, seed=1)
    write_conversations(path, given, metadata={"source": "test"})
    rows = loaded(path)
    assert [row.prompt for row in rows] == [[list(turn.messages) for turn in one.turns] for one in given]
    assert [row.prompt_len for row in rows] == [one.turns[0].prompt_tokens for one in given]
    # Subagents are conversations of their own there.
    assert len(rows) > 5


def test_file_for_sglang_gives_the_same_turns_here(tmp_path: Path) -> None:
    def message(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    conversations = [
        [
            {"messages": [message("system", "s"), message("user", "u")], "prompt_tokens": 73, "extra": [1]},
            {"messages": []},
            {"prompt_tokens": 80},
            {"messages": [message("tool", "t"), message("user", "v")]},
        ],
        [{"messages": []}],
        [{"messages": [message("user", "w")], "prompt_tokens": 9}],
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"metadata": {"n": 3}, "conversations": conversations}))
    rows = loaded(path)
    found = [one for one in read_conversations(path) if one.turns]
    assert [[list(turn.messages) for turn in one.turns] for one in found] == [row.prompt for row in rows]
    assert [one.turns[0].prompt_tokens for one in found] == [row.prompt_len for row in rows]
    assert {call.output for call in read_workload(path).calls} == {row.output_len for row in rows}
    assert DEFAULT_OUTPUT_TOKENS == DEFAULT_AGENTIC_OUTPUT_LEN


def test_turns_of_text_alone_reach_the_replay_of_sglang_too(tmp_path: Path) -> None:
    """SGLang's `_normalize_round_messages`, a row of UPSTREAM.md, makes a user's message of them."""
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"conversations": [[{"messages": "hello", "prompt_tokens": 1}]]}))
    (row,) = loaded(path)
    ((turn,),) = (one.turns for one in read_conversations(path))
    assert row.prompt == ["hello"]
    assert turn.messages == ({"role": "user", "content": "hello"},)
