"""Stages of an engine's start."""

from serval.terminal.stages import STAGES, StageReader


def test_stage_reader_names_each_stage_once_although_every_rank_writes() -> None:
    reader = StageReader()
    lines = [f"TP{rank} {text}" for text, _ in STAGES for rank in range(2)]
    assert [stage for line in lines if (stage := reader.stage_begun_by(line))] == [name for _, name in STAGES]


def test_stage_reader_skips_stages_that_an_engine_does_not_have() -> None:
    reader = StageReader()
    assert reader.stage_begun_by("INFO:     Uvicorn running on http://127.0.0.1:1") == "warming up"
    assert reader.stage_begun_by("Load weight begin") is None


def test_stage_reader_ignores_other_lines() -> None:
    assert StageReader().stage_begun_by("Prefill batch, #new-seq: 1") is None
