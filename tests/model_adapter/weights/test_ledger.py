"""Errors about a checkpoint that does not fit the model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from serval_sglang.checkpoint import write_tiny_checkpoint
from serval_sglang.checkpoint.fp8 import BLOCK
from serval_sglang.checkpoint.layout import ALIASES, mtp_tensor_shapes, table_name, tensor_shapes
from serval_sglang.checkpoint.random import tiny_config
from serval_sglang.weights.ledger import CheckpointMismatch, TensorLedger

CONFIG = tiny_config(num_layers=1, n_routed_experts=2, zero_expert_num=2, moe_topk=2)
SHAPES = tensor_shapes(CONFIG)
NAMES = tuple(SHAPES)

SCALES = [table_name(i, part="weight_scale") for i in range(CONFIG.ngram_table_count)]


def feed(
    names: list[str], *, quantised: bool = False, coded_tables: bool = False
) -> tuple[TensorLedger, list[str]]:
    ledger = TensorLedger(CONFIG, quantised=quantised, coded_tables=coded_tables)
    return ledger, [name for name, _ in ledger.received((name, tensor_of(name)) for name in names)]


def tensor_of(name: str, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Return a tensor of the model's shape for a name that the model has, of another shape otherwise."""
    return torch.empty(SHAPES.get(ALIASES.get(name, name), (0,)), dtype=dtype)


def test_ledger_accepts_complete_checkpoint() -> None:
    ledger, passed_on = feed(list(NAMES))
    ledger.require_known()
    ledger.require_complete()
    assert passed_on == list(NAMES)


def test_ledger_ignores_mtp_tensors() -> None:
    ledger, passed_on = feed([*NAMES, *mtp_tensor_shapes(CONFIG)])
    ledger.require_known()
    assert passed_on == list(NAMES)


@pytest.mark.parametrize("quantised", [False, True])
def test_ledger_accepts_alias_for_its_tensor(quantised: bool) -> None:
    ((alias, name),) = ALIASES.items()
    without = [other for other in NAMES if other != name]
    ledger, passed_on = feed([alias, *without], quantised=quantised)
    ledger.require_known()
    ledger.require_complete()
    assert passed_on == [name, *without]


def test_ledger_lists_missing_tensors() -> None:
    lost = ["model.layers.0.mlp.experts.1.up_proj.weight", "model.ngram_embeddings.embedders.11.weight"]
    ledger, _ = feed([name for name in NAMES if name not in lost])
    with pytest.raises(CheckpointMismatch) as error:
        ledger.require_complete()
    assert "lacks 2 tensors" in str(error.value)
    assert all(name in str(error.value) for name in lost)


def test_ledger_lists_missing_and_unknown_tensors_together() -> None:
    ledger, _ = feed(["model.norm.scale", *(name for name in NAMES if name != "model.norm.weight")])
    with pytest.raises(CheckpointMismatch) as error:
        ledger.require_complete()
    assert "lacks 1 tensors: model.norm.weight, and holds 1 unknown ones: model.norm.scale." in str(
        error.value
    )


@pytest.mark.parametrize(
    "stray",
    [
        "model.layers.0.self_attn.0.k_norm.weight",
        "model.layers.1.input_layernorm.0.weight",
        "model.mtp.layers.0.surprise.weight",
        "model.layers.0.mlp.experts.0.gate_proj.weight_scale_inv",
    ],
)
def test_ledger_lists_unknown_tensors_and_drops_them(stray: str) -> None:
    ledger, passed_on = feed([*NAMES, stray])
    assert stray not in passed_on
    with pytest.raises(CheckpointMismatch, match=stray):
        ledger.require_known()


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(["weight", "weight_scale_inv"], id="block-wise FP8"),
        pytest.param(["qweight", "qzeros", "scales", "g_idx"], id="GPTQ and AutoRound"),
        pytest.param(["weight_packed", "weight_scale", "weight_shape"], id="compressed-tensors"),
    ],
)
def test_ledger_accepts_quantised_layer_in_parts(parts: list[str]) -> None:
    layer = "model.layers.0.mlp.experts.0.gate_proj"
    names = [name for name in NAMES if name != f"{layer}.weight"]
    ledger, passed_on = feed([*names, *(f"{layer}.{part}" for part in parts)], quantised=True)
    ledger.require_known()
    ledger.require_complete()
    assert passed_on[-len(parts) :] == [f"{layer}.{part}" for part in parts]


def test_ledger_does_not_accept_scales_for_layer() -> None:
    layer = "model.layers.0.mlp.experts.0.gate_proj"
    names = [name for name in NAMES if name != f"{layer}.weight"]
    ledger, _ = feed([*names, f"{layer}.weight_scale_inv"], quantised=True)
    with pytest.raises(CheckpointMismatch, match=f"lacks 1 tensors: {layer}"):
        ledger.require_complete()


@pytest.mark.parametrize("quantised", [False, True])
def test_ledger_requires_scales_of_eight_bit_tables(quantised: bool) -> None:
    ledger, passed_on = feed([*NAMES, *SCALES], quantised=quantised, coded_tables=True)
    ledger.require_known()
    ledger.require_complete()
    assert passed_on == [*NAMES, *SCALES]
    ledger, _ = feed([*NAMES, *SCALES[1:]], quantised=quantised, coded_tables=True)
    with pytest.raises(CheckpointMismatch, match=f"lacks 1 tensors: {SCALES[0]}"):
        ledger.require_complete()
    ledger, _ = feed([*NAMES[:1], *NAMES[2:], *SCALES], quantised=quantised, coded_tables=True)
    with pytest.raises(CheckpointMismatch, match=r"lacks 1 tensors: model\.ngram_embeddings\.embedders\.0"):
        ledger.require_complete()


def test_ledger_refuses_scales_of_float_tables() -> None:
    ledger, _ = feed([*NAMES, SCALES[0]])
    with pytest.raises(CheckpointMismatch, match=SCALES[0]):
        ledger.require_known()


def test_ledger_truncates_long_list() -> None:
    ledger, _ = feed([])
    with pytest.raises(CheckpointMismatch, match=rf"and {len(NAMES) - 20} more"):
        ledger.require_complete()


@pytest.mark.parametrize("quantised", [False, True])
def test_ledger_refuses_tensor_of_other_shape(quantised: bool) -> None:
    name = "model.layers.0.mlp.experts.1.down_proj.weight"
    rows, columns = SHAPES[name]
    for shape in ((rows, columns // 2), (rows, 2 * columns), (rows - 1, columns), (rows * columns,)):
        ledger = TensorLedger(CONFIG, quantised=quantised, coded_tables=False)
        with pytest.raises(CheckpointMismatch) as error:
            list(ledger.received([(name, torch.empty(shape))]))
        assert f"{name} has shape {shape}, and config.json describes {(rows, columns)}" in str(error.value)


def test_ledger_leaves_shape_of_packed_values_to_their_reader() -> None:
    name = "model.layers.0.mlp.experts.1.down_proj.weight"
    ledger = TensorLedger(CONFIG, quantised=True, coded_tables=False)
    assert list(ledger.received([(name, torch.empty(3, dtype=torch.uint8))]))


FP8_LAYER = "model.layers.0.self_attn.0.kv_a_proj_with_mqa"


def of_fp8_layer(*, scales: tuple[int, int] | None) -> list[tuple[str, torch.Tensor]]:
    found = [(f"{FP8_LAYER}.weight", tensor_of(f"{FP8_LAYER}.weight", torch.float8_e4m3fn))]
    return found if scales is None else [*found, (f"{FP8_LAYER}.weight_scale_inv", torch.empty(scales))]


def test_ledger_requires_scales_of_fp8_layers() -> None:
    rest = [(name, tensor_of(name)) for name in NAMES if name != f"{FP8_LAYER}.weight"]
    height, width = SHAPES[f"{FP8_LAYER}.weight"]
    scales = (-(-height // 32), -(-width // 32))
    for order in (1, -1):
        ledger = TensorLedger(CONFIG, quantised=True, coded_tables=False, block=[32, 32])
        list(ledger.received([*rest, *of_fp8_layer(scales=scales)[::order]]))
        ledger.require_complete()
    ledger = TensorLedger(CONFIG, quantised=True, coded_tables=False, block=[32, 32])
    list(ledger.received([*rest, *of_fp8_layer(scales=None)]))
    with pytest.raises(CheckpointMismatch, match=rf"lacks 1 tensors: {FP8_LAYER}\.weight_scale_inv"):
        ledger.require_complete()


def test_ledger_refuses_scales_of_other_blocks() -> None:
    ledger = TensorLedger(CONFIG, quantised=True, coded_tables=False, block=[32, 32])
    with pytest.raises(CheckpointMismatch, match=r"weight_scale_inv has shape \(1, 1\)"):
        list(ledger.received(of_fp8_layer(scales=(1, 1))))


def test_ledger_requires_no_block_scales_of_eight_bit_tables() -> None:
    ledger = TensorLedger(CONFIG, quantised=True, coded_tables=True, block=[32, 32])
    tensors = [(name, tensor_of(name)) for name in NAMES if "embedders" not in name]
    tensors += [(name, tensor_of(name, torch.float8_e4m3fn)) for name in NAMES if "embedders" in name]
    list(ledger.received([*tensors, *((name, torch.empty(0)) for name in SCALES)]))
    ledger.require_complete()


@pytest.mark.parametrize(
    ("form", "part"),
    [
        ({"fp8": True}, "weight_scale_inv"),
        ({"packed": "gptq"}, "qweight"),
        ({"packed": "compressed-tensors"}, "weight_packed"),
    ],
)
def test_ledger_accepts_written_copy(tmp_path: Path, form: dict[str, Any], part: str) -> None:
    config = write_tiny_checkpoint(tmp_path, seed=0, dtype=torch.bfloat16, num_layers=1, **form)
    tensors = load_file(tmp_path / "model.safetensors")
    assert any(name.endswith(part) for name in tensors)
    block = BLOCK if "fp8" in form else None
    ledger = TensorLedger(config, quantised=True, coded_tables=False, block=block)
    assert dict(ledger.received(tensors.items())).keys() == tensors.keys()
    ledger.require_known()
    ledger.require_complete()
