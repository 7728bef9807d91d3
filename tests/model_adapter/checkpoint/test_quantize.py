"""Eight-bit tables: the rest of a checkpoint is unchanged, the output nearly so, in little memory."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from serval_kernels.row_quantization import QuantizedTable, dequantize_rows
from serval_sglang.checkpoint import (
    CheckpointError,
    load_reference,
    load_state_dict,
    mtp_tensor_shapes,
    quantize,
    random_state_dict,
    save_checkpoint,
    tiny_config,
    write_tiny_checkpoint,
)
from serval_sglang.checkpoint.inspection import inspect_checkpoint
from serval_sglang.checkpoint.layout import table_name
from serval_sglang.checkpoint.parts import Part
from serval_sglang.checkpoint.quantize import quantize_tables
from serval_sglang.cli.checkpoint.__main__ import main
from serval_sglang.config import WITHOUT_NGRAMS

CONFIG = tiny_config(num_layers=1)
CODES = [torch.int8, torch.float8_e4m3fn]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    mtp = {name: torch.full(shape, 0.5) for name, shape in mtp_tensor_shapes(CONFIG).items()}
    return random_state_dict(CONFIG, seed=3) | mtp


@pytest.fixture(params=[10**9, 300_000], ids=["one file", "shards"])
def source(request: pytest.FixtureRequest, tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    folder = tmp_path / "source"
    save_checkpoint(weights, CONFIG, folder, dtype=torch.bfloat16, max_shard_bytes=request.param)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def test_quantize_tables_refuses_a_model_without_tables(tmp_path: Path) -> None:
    changes = {"rope_scaling": None, "num_layers": 1, **WITHOUT_NGRAMS}
    write_tiny_checkpoint(tmp_path / "flash", seed=0, dtype=torch.bfloat16, **changes)
    with pytest.raises(CheckpointError, match="has no n-gram tables"):
        quantize_tables(tmp_path / "flash", tmp_path / "target", dtype=torch.int8)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("dtype", CODES)
def test_quantize_tables_changes_only_tables(
    source: Path, tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not a divisor of the number of rows, so that blocks end within tables.
    monkeypatch.setattr(quantize, "BLOCK_ROWS", 100)
    target = tmp_path / "target"
    errors = quantize_tables(source, target, dtype=dtype)

    before, after = stored(source), stored(target)
    assert [row.table for row in errors] == list(range(12))
    for row in errors:
        name = table_name(row.table)
        codes, scales = (after.pop(table_name(row.table, part=part)) for part in ("weight", "weight_scale"))
        assert codes.dtype == dtype
        expanded = dequantize_rows(QuantizedTable(codes, scales), dtype=torch.float32)
        off = (expanded - before[name].float()).abs()
        assert (row.largest, row.mean) == pytest.approx((off.max().item(), off.mean().item()), rel=1e-5)
        assert row.relative_rms < {torch.int8: 0.01, torch.float8_e4m3fn: 0.04}[dtype]
        assert torch.equal(load_state_dict(target)[name], expanded)
        del before[name]
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor.view(torch.uint8), after[name].view(torch.uint8)), name
    assert (target / "tokenizer.json").read_text() == "{}"
    assert not list(target.glob("*.partial"))
    written = json.loads((target / "config.json").read_text())
    assert written.pop("serval_ngram_table_dtype") == str(dtype).removeprefix("torch.")
    assert written == json.loads((source / "config.json").read_text())


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "embedding_moves"), [(torch.int8, 0.006), (torch.float8_e4m3fn, 0.03)])
def test_quantize_tables_hardly_changes_output(
    weights: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype, embedding_moves: float
) -> None:
    save_checkpoint(weights, CONFIG, tmp_path / "source", dtype=torch.float32)
    quantize_tables(tmp_path / "source", tmp_path / "target", dtype=dtype)
    exact, rounded = (load_reference(tmp_path / folder) for folder in ("source", "target"))
    tokens = torch.arange(64)[None] * 11 % CONFIG.vocab_size
    inputs = [model.model.embed(tokens, dtype=torch.float32) for model in (exact, rounded)]
    assert 0 < (inputs[1] - inputs[0]).norm() < embedding_moves * inputs[0].norm()
    logits = [model(tokens) for model in (exact, rounded)]
    # A looser bound, because a token near a tie may go to another expert.
    assert 0 < (logits[1] - logits[0]).norm() < 0.15 * logits[0].norm()


def test_quantize_tables_names_broken_table(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    broken = weights[table_name(4)].clone()
    broken[700, 3] = float("nan")
    save_checkpoint(weights | {table_name(4): broken}, CONFIG, tmp_path / "a", dtype=torch.float32)
    with pytest.raises(CheckpointError, match=r"embedders\.4\.weight, rows from 0: rows must be finite"):
        quantize_tables(tmp_path / "a", tmp_path / "b", dtype=torch.int8)
    assert not (tmp_path / "b" / "config.json").exists()


def test_quantize_tables_refuses_unsuitable_checkpoints(source: Path, tmp_path: Path) -> None:
    quantize_tables(source, tmp_path / "once", dtype=torch.int8)
    with pytest.raises(CheckpointError, match="the n-gram tables are in eight bits already"):
        quantize_tables(tmp_path / "once", tmp_path / "twice", dtype=torch.int8)
    with pytest.raises(CheckpointError, match="already holds"):
        quantize_tables(source, tmp_path / "once", dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        quantize_tables(tmp_path / "nowhere", tmp_path / "twice", dtype=torch.int8)


def test_quantize_tables_checks_disk_space_first(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"needs .* bytes, and 0 are free"):
        quantize_tables(source, tmp_path / "target", dtype=torch.int8)
    assert not list((tmp_path / "target").iterdir())


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 40, (2).to_bytes(8, "little") + b"[]", (2).to_bytes(8, "little") + b"{,"]
)
def test_quantize_tables_names_file_that_is_not_safetensors(
    source: Path, tmp_path: Path, content: bytes
) -> None:
    damaged = min(source.glob("*.safetensors"))
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{damaged.name} is not safetensors"):
        quantize_tables(source, tmp_path / "target", dtype=torch.int8)


def test_quantize_tables_names_truncated_file(source: Path, tmp_path: Path) -> None:
    damaged = min(source.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{damaged.name} is cut off"):
        quantize_tables(source, tmp_path / "target", dtype=torch.int8)


@pytest.mark.parametrize("scales", [None, torch.ones(5)])
def test_load_refuses_codes_without_scales(
    tmp_path: Path, weights: dict[str, Tensor], scales: Tensor | None
) -> None:
    save_checkpoint(weights, CONFIG, tmp_path / "source", dtype=torch.bfloat16)
    quantize_tables(tmp_path / "source", tmp_path / "target", dtype=torch.int8)
    tensors = stored(tmp_path / "target")
    del tensors[table_name(2, part="weight_scale")]
    if scales is not None:
        tensors[table_name(2, part="weight_scale")] = scales
    save_file(tensors, tmp_path / "target" / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"embedders\.2\.weight is in torch\.int8 and needs .*weight_scale"
    ):
        load_state_dict(tmp_path / "target")


@pytest.mark.parametrize("fp8_body", [False, True])
@pytest.mark.parametrize("dtype", CODES)
def test_quantized_tables_pass_inspection(tmp_path: Path, *, fp8_body: bool, dtype: torch.dtype) -> None:
    config = write_tiny_checkpoint(
        tmp_path / "source", seed=0, dtype=torch.bfloat16, fp8=fp8_body, num_layers=1
    )
    quantize_tables(tmp_path / "source", tmp_path / "target", dtype=dtype)
    before, after = (inspect_checkpoint(tmp_path / folder) for folder in ("source", "target"))
    assert before.is_complete
    assert after.is_complete, after
    tables = [found.parts[Part.NGRAM_TABLES] for found in (before, after)]
    assert tables[0].parameters == tables[1].parameters
    # One byte instead of two, and four more for each row.
    width = config.ngram_table_width
    assert tables[1].size_bytes == tables[0].size_bytes * (width + 4) // (width * 2)


def test_quantize_tables_command_reports_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_checkpoint(tmp_path / "source", seed=0, dtype=torch.bfloat16, num_layers=1)
    command = ["quantize-tables", str(tmp_path / "source"), str(tmp_path / "target")]
    assert main([*command, "--dtype", "fp8", "--json"]) == 0
    assert [row["table"] for row in json.loads(capsys.readouterr().out)] == list(range(12))
    assert main(command) == 1
    assert "serval checkpoint quantize-tables: error: " in capsys.readouterr().err
