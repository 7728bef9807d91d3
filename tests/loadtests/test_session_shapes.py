"""Generated sessions have the shape of the public traces, and replay alike for each seed."""

import random
import statistics
from dataclasses import replace

import pytest
from tokenizers import Tokenizer

from serval.workload_files import Conversation
from serval_load.programs import DEMO_MODEL
from serval_load.workloads.session_shapes import LogNormal, Shape, sessions

# Short texts, so that many sessions are drawn in little time.
SMALL = replace(Shape(subagent_share=0.0).scaled(0.01), context=100_000)


def text(conversation: Conversation, turn: int = 0) -> str:
    return str(conversation.turns[turn].messages[0]["content"])


def test_log_normal_has_its_median_and_spread() -> None:
    source = random.Random(1)
    drawn = sorted(LogNormal(216, 0.9).draw(source) for _ in range(4000))
    # In the corpus p10 is 105 and p90 is 899: its upper tail is heavier than a log-normal's.
    assert statistics.median(drawn) == pytest.approx(216, rel=0.05)
    assert drawn[3600] == pytest.approx(216 * 3.17, rel=0.1)


def test_sessions_have_the_turns_answers_and_pauses_of_the_corpus() -> None:
    found = sessions(SMALL, 300, seed=1)
    turns = [turn for one in found for turn in one.turns[1:]]
    assert statistics.median(len(one.turns) for one in found) == pytest.approx(45, rel=0.25)
    # 13 % of all pauses are a user's, with a median of 122 s; the others' is 9 s.
    assert statistics.median(turn.pause_s for turn in turns) == pytest.approx(11, rel=0.1)
    assert sum(turn.pause_s > 200 for turn in turns) / len(turns) == pytest.approx(0.055, abs=0.015)
    large = sessions(replace(Shape(), turns=LogNormal(3, 0.1), subagent_share=0.0), 60, seed=1)
    answers = [turn.output_tokens or 0 for one in large for turn in one.turns]
    assert statistics.median(answers) == pytest.approx(216, rel=0.2)


def test_prompts_grow_by_answers_and_new_messages_up_to_the_context() -> None:
    (found,) = sessions(replace(SMALL, turns=LogNormal(40, 0.0), context=2_000), 1, seed=2)
    known = 0
    for turn in found.turns:
        new = sum(len(message["content"].split()) for message in turn.messages)
        assert turn.prompt_tokens == known + new
        known = turn.prompt_tokens + (turn.output_tokens or 0)
        assert known <= 2_000
    assert [len(turn.messages) for turn in found.turns[:3]] == [2, 1, 1]


def test_stated_lengths_are_those_of_the_tokenizer() -> None:
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    (found,) = sessions(replace(SMALL, turns=LogNormal(3, 0.0)), 1, seed=3)
    counted = sum(len(tokenizer.encode(message["content"]).ids) for message in found.turns[0].messages)
    assert counted == pytest.approx(found.turns[0].prompt_tokens, rel=0.02)


def test_sessions_share_tools_and_projects() -> None:
    found = sessions(SMALL, 60, seed=1)
    systems = [text(one) for one in found]
    assert len({system.split()[0:60][-1] for system in systems}) <= 2
    tools = {" ".join(system.split()[: SMALL.tools_tokens]) for system in systems}
    assert len(tools) == SMALL.tool_sets
    assert len(set(systems)) == SMALL.tool_sets * SMALL.projects


def test_subagents_begin_together_after_a_turn_and_have_a_prompt_of_their_own() -> None:
    found = sessions(replace(SMALL, subagent_share=1.0), 40, seed=1)
    agents = [one for one in found if one.after is None]
    subagents = [one for one in found if one.after is not None]
    assert len(agents) == 40
    counts = [sum(one.after is not None and one.after.conversation == place for one in found)
              for place, parent in enumerate(found) if parent.after is None]  # fmt: skip
    assert set(counts) == {1, 2, 3, 4}
    assert len({text(one) for one in subagents}) == 1
    assert text(subagents[0]) not in {text(one) for one in agents}
    for one in subagents:
        assert one.after is not None
        assert one.after.turn < len(found[one.after.conversation].turns) - 1


def test_sessions_are_the_same_for_a_seed() -> None:
    assert sessions(SMALL, 3, seed=5) == sessions(SMALL, 3, seed=5) != sessions(SMALL, 3, seed=6)


def test_system_prompts_longer_than_half_of_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match=r"15,035 tokens leave too little of a context of 8,000"):
        sessions(Shape(context=8_000), 1, seed=1)
