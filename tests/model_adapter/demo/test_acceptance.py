"""Prompts whose drafts are counted, and what is printed; test_checkpoint.py counts those of the demo."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from serval_sglang.demo import acceptance
from serval_sglang.reference import SpeculativeRun

RUNS = {
    "question": SpeculativeRun(tokens=[1] * 8, accepted=[3, 0, 1], steps=3),
    "call": SpeculativeRun(tokens=[1] * 13, accepted=[3, 3, 3], steps=3),
}


def test_documented_prompts_end_where_the_assistant_speaks() -> None:
    prompts = list(acceptance.documented_prompts())
    assert {prompt.kind for prompt in prompts} == {"question", "call"}
    assert all(prompt.text.endswith("<longcat_assistant>") for prompt in prompts)
    assert all(("get_weather" in prompt.text) is (prompt.kind == "call") for prompt in prompts)


def test_summary_counts_right_drafts_by_position() -> None:
    # 7 + 12 tokens after those of the prefill, in 6 passes.
    assert acceptance.summary(list(RUNS.values())).split() == [
        "21", "6", "13", "3.17", "83.3%", "66.7%", "66.7%",
    ]  # fmt: skip


def test_summary_of_answers_without_a_pass() -> None:
    only_prefill = SpeculativeRun(tokens=[1], accepted=[], steps=3)
    assert acceptance.summary([only_prefill]).split() == ["1", "0", "0", "0.00", "0.0%", "0.0%", "0.0%"]


def test_main_prints_a_line_for_each_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def counted(_: Path, prompts: Sequence[acceptance.Prompt], *, steps: int) -> Iterator[SpeculativeRun]:
        assert steps == 3
        return iter([RUNS[prompt.kind] for prompt in prompts])

    monkeypatch.setattr(acceptance, "count_drafts", counted)
    assert acceptance.main(["--each"]) == 0
    lines = capsys.readouterr().out.splitlines()
    prompts = list(acceptance.documented_prompts())
    assert len(lines) == 1 + len(prompts) + 2
    assert lines[1].startswith("Hello")
    assert [line.split()[2] for line in lines[-2:]] == ["questions", "calls"]
