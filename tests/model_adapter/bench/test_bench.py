"""The bench of the built-in model and Serval's: its arithmetic, and one run of the command."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from serval_sglang.bench.__main__ import VARIANTS, Row, markdown
from serval_sglang.bench.random_weights import fill_randomly
from serval_sglang.bench.server import Server


def test_decode_step_is_time_that_more_tokens_add(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server("http://nowhere", vocab_size=100, random=Random(0))
    asked: list[tuple[int, int]] = []

    def generate_s(_: Server, prompts: list[list[int]], *, new_tokens: int) -> float:
        asked.append((len(prompts), new_tokens))
        return 5.0 + 0.25 * new_tokens

    monkeypatch.setattr(Server, "_generate_s", generate_s)
    assert server.decode_step_s(3, prompt_tokens=7, steps=10, repeats=2) == pytest.approx(0.25)
    # The first call leaves the prompts in the cache, so that none is prefilled while time is measured.
    assert asked == [(3, 2), (3, 12), (3, 2), (3, 12), (3, 2)]


def test_markdown_has_row_for_each_variant() -> None:
    measured = Row("serval", {1: 0.002, 64: 0.004}, 12345.6, {"weight": 1.5, "kv_cache": 2.0, "graph": 0.25})
    head, _, built_in, serval = markdown([Row("built-in", note="runs on a GPU only"), measured], [1, 64])
    assert serval == "| serval | 2.000 | 4.000 | 16,000 | 12,346 | 1.50 | 0.25 |"
    assert "runs on a GPU only" in built_in
    assert head.count("|") == built_in.count("|") == serval.count("|")


class Parts(nn.Module):
    """One tensor of each kind in a model."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.empty(70_000, 8, dtype=torch.bfloat16), requires_grad=False)
        self.codes = nn.Parameter(torch.zeros(70_000, 8, dtype=torch.int8), requires_grad=False)
        self.norm = nn.Parameter(torch.empty(8), requires_grad=False)
        self.e_score_correction_bias = nn.Parameter(torch.ones(8), requires_grad=False)


def test_fill_randomly_varies_weights_and_sets_norms_to_one() -> None:
    parts = Parts()
    fill_randomly(parts)
    assert parts.matrix.float().std().item() == pytest.approx(0.02, rel=0.02)
    assert parts.matrix[69_999].float().abs().max() > 0  # also in the last block
    assert (parts.codes[0] != parts.codes[1]).any()
    assert parts.codes[69_999].any()
    assert (parts.norm == 1).all()
    assert (parts.e_score_correction_bias == 0).all()


@pytest.mark.engine
def test_bench_runs_from_command_line(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "serval_sglang.bench", "--device=cpu", "--small", "--variants", "built-in",
        "host int8 tables", "--batches", "1", "2", "--prompt=16", "--steps=4", "--prefill=32", "--repeats=1",
        f"--json={tmp_path / 'rows.json'}",
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=850)
    assert finished.returncode == 0, finished.stderr
    assert "| built-in | runs on a GPU only |" in finished.stdout
    rows: list[dict[str, Any]] = json.loads((tmp_path / "rows.json").read_text())
    assert set(rows[1]["step_s"]) == {"1", "2"}
    assert rows[1]["prefill_tokens_per_s"] > 0


def test_bench_help_names_every_variant() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "serval_sglang.bench", "--help"], capture_output=True, text=True, check=True
    )
    assert all(repr(name) in " ".join(finished.stdout.split()) for name in VARIANTS)
