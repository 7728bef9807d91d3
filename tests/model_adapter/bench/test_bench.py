"""The bench of the built-in model and Serval's: its arithmetic, and one run of the command."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from serval_sglang.bench.__main__ import VARIANTS, _engine_command, _parser, main
from serval_sglang.bench.fit import table_ratio
from serval_sglang.bench.random_weights import fill_randomly
from serval_sglang.bench.rows import OK, Row, head, line
from serval_sglang.bench.server import Server, ServerFailed
from serval_sglang.config import LongcatConfig
from serval_sglang.known_configs import LITE
from serval_sglang.plan import PlanError
from serval_sglang.plan.shard_sizes import TablePlacement, WeightDtype


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


def test_repeats_end_at_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server("http://nowhere", vocab_size=100, random=Random(0), deadline=time.monotonic() - 1)
    asked: list[int] = []
    monkeypatch.setattr(Server, "_generate_s", lambda *_, new_tokens: asked.append(new_tokens) or 1.0)
    assert server.prefill_s(8, repeats=50) == 1.0
    assert len(asked) == 2


def test_line_shows_every_figure_under_its_head() -> None:
    measured = Row("serval", OK, {1: 0.002, 64: 0.004}, 12345.6, {"weight": 1.5, "graph": 0.25})
    assert line(measured, [1, 64]) == "| serval | 2.000 | 4.000 | 16,000 | 12,346 | 1.50 | 0.25 |"
    cut_short = Row("overlap", step_s={1: 0.002})
    assert line(cut_short, [1, 64]) == "| overlap | 2.000 | - | - | - | - | - |"
    names, rule = head([1, 64]).splitlines()
    failed = line(Row("built-in", "failed: out of memory", {1: 0.002}), [1, 64])
    assert failed.startswith("| built-in | failed: out of memory | |")
    assert "2.000" not in failed
    assert {text.count("|") for text in (names, rule, failed, line(measured, [1, 64]))} == {8}


GIB = 1 << 30
ALL_PLACES = {variant.tables for variant in VARIANTS.values()}
TWO_LAYERS = replace(LITE, num_layers=2)


def fitting(
    gib: float,
    places: Collection[TablePlacement] = ALL_PLACES,
    *,
    config: LongcatConfig = TWO_LAYERS,
    weight_dtype: WeightDtype = "bf16",
) -> int:
    return table_ratio(
        config,
        round(gib * GIB),
        places,
        weight_dtype=weight_dtype,
        context_tokens=16384,
        cached_tokens=74_240,
    )


def test_table_ratio_is_the_models_own_on_h200_and_smaller_on_80_gb() -> None:
    assert fitting(140.4) == 78
    assert 0 < fitting(47.5) < fitting(79.6) < 78
    assert fitting(79.6, {"host"}) == fitting(79.6, {"8bit"}) == 78


def test_table_ratio_of_whole_fp8_model_is_its_own_on_h200() -> None:
    assert fitting(140.4, config=LITE, weight_dtype="fp8") == 78
    assert fitting(140.4, config=LITE) < 78


def test_table_ratio_leaves_room_by_independent_arithmetic() -> None:
    """Tables 58.5 GiB at 78; word embedding and head 1.5, experts 9, the rest 0.7; SGLang keeps 14.6 back."""
    used = fitting(79.6) / 78 * 58.5 + 1.5 + 9.0 + 0.7 + 14.1
    assert 79.6 - 8 < used < 79.6 - 2


def test_table_ratio_names_layers_that_never_fit() -> None:
    with pytest.raises(PlanError, match=r"2 layers do not fit on a GPU with 20\.0 GiB"):
        fitting(20.0)


def test_gpu_memory_without_nvidia_smi_asks_for_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as exit_:
        main(["--variants", "serval"])
    assert exit_.value.code == 1
    assert "there is no nvidia-smi here; give --gpu-memory-gib." in capsys.readouterr().err


class StandIn:
    """An engine that measures nothing; answers depend on the prompt, and `off` is added to some of them."""

    vocab_size = 100
    url = "http://nowhere"

    def __init__(self, off: float = 0.0, *, beside: float = 0.0) -> None:
        self._off, self._beside = off, beside

    def log_probabilities(self, prompts: list[list[int]]) -> list[list[float]]:
        off = self._off + (self._beside if len(prompts) > 1 else 0.0)
        return [[-token / 100 + off for token in prompt[1:]] for prompt in prompts]

    def decode_step_s(self, batch: int, **_: int) -> float:
        return batch / 1000

    def prefill_s(self, tokens: int, **_: int) -> float:
        return tokens / 1000

    def memory_gb(self) -> dict[str, float]:
        return {"weight": 1.0, "kv_cache": 2.0, "graph": 3.0}


Engines = Mapping[str, StandIn | Exception]


def run_bench(
    monkeypatch: pytest.MonkeyPatch, file: Path, engines: Engines, *options: str
) -> tuple[int, list[dict[str, Any]]]:
    """Run the command with a stand-in for the engine of each variant."""
    left = iter(engines.values())

    @contextmanager
    def running(*_: object, **__: object) -> Iterator[StandIn]:
        engine = next(left)
        if isinstance(engine, Exception):
            raise engine
        yield engine

    monkeypatch.setattr("serval_sglang.bench.__main__.running_server", running)
    given = ["--gpu-memory-gib", "79.6", "--batches", "1", "64", f"--json={file}", *options]
    code = main(["--variants", *engines, *given])
    return code, [json.loads(text) for text in file.read_text().splitlines()]


def test_bench_measures_others_beside_variant_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = "loading\ntorch.OutOfMemoryError: CUDA out of memory.\nkilled\n"
    engines: Engines = {
        "built-in": ServerFailed("the engine ended with exit code 1", log=log),
        "serval": StandIn(),
        "overlap": StandIn(0.01),
    }
    code, found = run_bench(monkeypatch, tmp_path / "rows.jsonl", engines)
    assert code == 1
    reason = "failed: the engine ended with exit code 1: torch.OutOfMemoryError: CUDA out of memory."
    assert found[1] == {"what": "start", "variant": "built-in", "check": reason}
    assert [(row["what"], row["variant"]) for row in found[2:]] == [
        (what, variant)
        for variant in ("serval", "overlap")
        for what in ("start", "answers", "decode", "decode", "prefill", "memory")
    ]
    assert all(row["check"] == OK for row in found[2:])
    assert found[5] == {"what": "decode", "variant": "serval", "check": OK, "batch": 64, "us": 64000.0}
    assert found[9]["compared_with"] == "serval"
    printed = capsys.readouterr().out
    assert f"tables of {fitting(79.6)} vocabularies, of the model's 78, so that every variant fits" in printed
    assert f"| built-in | {reason} |" in printed
    assert found[0]["table_ratio"] == fitting(79.6)


def test_bench_counts_fp8_layers_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = ("--layers", "14", "--fp8", "--gpu-memory-gib", "140.4")
    code, found = run_bench(monkeypatch, tmp_path / "rows.jsonl", {"serval": StandIn()}, *options)
    assert (code, found[0]["table_ratio"], found[0]["fp8"]) == (0, 78, True)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (StandIn(0.2), "failed: log-probabilities differ by 0.2 from those of 'serval'"),
        (StandIn(beside=0.2), "failed: log-probabilities differ by 0.2 beside other requests"),
        (StandIn(math.nan), "failed: a log-probability is not finite"),
    ],
)
def test_bench_shows_no_speed_beside_wrong_answers(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    engine: StandIn,
    message: str,
) -> None:
    engines: Engines = {"serval": StandIn(), "host tables": engine, "overlap": StandIn()}
    code, found = run_bench(monkeypatch, tmp_path / "rows.jsonl", engines)
    assert code == 1
    of_wrong = [row for row in found if row.get("variant") == "host tables"]
    assert [(row["what"], row["check"]) for row in of_wrong] == [("start", OK), ("answers", message)]
    assert f"| host tables | {message} |" in capsys.readouterr().out
    assert any(row["what"] == "memory" and row["variant"] == "overlap" for row in found)


def test_bench_compares_only_variants_of_same_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engines: Engines = {"built-in": StandIn(), "serval": StandIn(0.5), "int8 tables": StandIn(1.0)}
    code, found = run_bench(monkeypatch, tmp_path / "rows.jsonl", engines)
    assert code == 0
    assert [row["compared_with"] for row in found if row["what"] == "answers"] == [None, None, None]


def test_bench_keeps_figures_of_engine_that_ends_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Ending(StandIn):
        def prefill_s(self, tokens: int, **_: int) -> float:
            raise ConnectionResetError("gone")

    code, found = run_bench(monkeypatch, tmp_path / "rows.jsonl", {"serval": Ending(), "overlap": StandIn()})
    assert code == 1
    assert [row["check"] for row in found if row["what"] == "requests"] == [
        "failed: ConnectionResetError: gone"
    ]
    assert len([row for row in found if row["what"] == "decode"]) == 4


def test_bench_starts_no_engine_after_its_minutes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run_bench(monkeypatch, tmp_path / "rows.jsonl", {"serval": StandIn()}, "--minutes", "0")
    assert code == 0
    assert found[1] == {"what": "start", "variant": "serval", "check": "skipped: 0 minutes are over"}
    assert "| serval | skipped: 0 minutes are over |" in capsys.readouterr().out


def test_builtin_engine_runs_in_environment_of_ours_without_the_adapter(tmp_path: Path) -> None:
    """Both need the same compiler and caches; the package of our models would hide SGLang's own."""
    args = _parser().parse_args(["--gpu-memory-gib", "79.6"])
    (tmp_path / "config.json").write_text(json.dumps(TWO_LAYERS.to_dict()))
    ours, theirs = (_engine_command(tmp_path, VARIANTS[name], args) for name in ("serval", "built-in"))
    assert theirs[0][1:] == ours[0][1:]
    assert dict(set(ours[1].items()) - set(theirs[1].items())) == {
        "SGLANG_EXTERNAL_MODEL_PACKAGE": "serval_sglang.models"
    }
    assert dict(set(theirs[1].items()) - set(ours[1].items())) == {"SGLANG_PLUGINS": "none"}


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


class Tables(nn.Module):
    """N-gram tables under the name that they have in the model."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.ngram_tables = nn.Module()
        self.ngram_tables.values = nn.Parameter(torch.zeros(300, 8, dtype=dtype), requires_grad=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_fill_randomly_draws_tables_on_the_host_wherever_they_are(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """A GPU's generator draws other numbers, and answers of tables in two places are compared."""
    drawn_on = []
    make = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device: drawn_on.append(device) or make(device="cpu"))
    on_gpu = Tables(dtype).to("meta")
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, _: self)
    fill_randomly(on_gpu)
    assert drawn_on == [torch.device("cpu")]


class Fp8Layer(nn.Module):
    """Codes and the scales of their blocks."""

    def __init__(self) -> None:
        super().__init__()
        codes = torch.empty(2048, 1024, dtype=torch.float8_e4m3fn)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.weight_scale_inv = nn.Parameter(torch.empty(16, 8), requires_grad=False)


def test_fill_randomly_spreads_fp8_weights_like_others() -> None:
    layer = Fp8Layer()
    fill_randomly(layer)
    codes = layer.weight.float()
    assert codes.isfinite().all()
    assert 256 < codes.abs().max() < 448  # most of the range is used, without its end
    assert (codes * layer.weight_scale_inv[0, 0]).std().item() == pytest.approx(0.02, rel=0.02)
    assert len(layer.weight_scale_inv.unique()) == 1


@pytest.mark.engine
def test_bench_runs_from_command_line(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "serval_sglang.bench", "--device=cpu", "--small", "--fp8", "--variants",
        "built-in", "host int8 tables", "--batches", "1", "2", "--prompt=16", "--steps=4", "--prefill=32",
        "--repeats=1", f"--json={tmp_path / 'rows.jsonl'}",
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=850)
    assert finished.returncode == 0, finished.stderr
    assert "| built-in | skipped: runs on a GPU only |" in finished.stdout
    rows = [json.loads(text) for text in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["what"] for row in rows] == [
        "conditions", "start", "start", "answers", "decode", "decode", "prefill", "memory",
    ]  # fmt: skip
    assert [row["check"] for row in rows[2:]] == ["ok"] * 6
    assert rows[3]["beside_others"] < 1e-4
    assert all(row["us"] > 0 for row in rows if row["what"] in ("decode", "prefill"))


def test_bench_help_names_every_variant() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "serval_sglang.bench", "--help"], capture_output=True, text=True, check=True
    )
    assert all(repr(name) in " ".join(finished.stdout.split()) for name in VARIANTS)
