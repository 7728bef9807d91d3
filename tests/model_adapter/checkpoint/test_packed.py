"""Layers packed in four bits read back to within half a step, in every layout."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from compressed_tensors.compressors.pack_quantized import unpack_from_int32
from safetensors.torch import load_file

from serval_sglang.checkpoint import load_reference, load_state_dict, write_tiny_checkpoint
from serval_sglang.checkpoint.fp8 import is_quantized_layer
from serval_sglang.checkpoint.inspection import inspect_checkpoint
from serval_sglang.checkpoint.packed import PackedLayerError, pack_layer, unpack_layer
from serval_sglang.checkpoint.quantization import Layout
from serval_sglang.checkpoint.random import random_state_dict

LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def weight(rows: int = 24, columns: int = 64) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pack_layer_reads_back_to_half_a_step(layout: Layout, bits: int) -> None:
    parts = pack_layer(weight(), layout=layout, bits=bits, group=16)
    steps = parts["weight_scale"] if layout == "compressed-tensors" else parts["scales"].t()
    assert sum(part.nbytes for name, part in parts.items() if "scale" not in name) < 24 * 64 * bits / 8 * 1.2
    error = (unpack_layer(parts, bits=bits) - weight()).abs()
    assert (error <= steps.repeat_interleave(16, dim=1) * 0.5001).all()


def test_pack_layer_agrees_with_compressed_tensors() -> None:
    parts = pack_layer(weight(), layout="compressed-tensors", group=16)
    theirs = unpack_from_int32(parts["weight_packed"], 4, torch.Size(parts["weight_shape"].tolist()))
    steps = parts["weight_scale"].repeat_interleave(16, dim=1)
    torch.testing.assert_close(theirs * steps, unpack_layer(parts, bits=4))


def test_unpack_layer_reads_zero_points_along_outputs() -> None:
    """Codes 0..15 mean 0..15 steps, less the zero point of the row, which is r modulo 16 for row r."""
    rows, steps = 16, 0.5
    parts = pack_layer(torch.zeros(rows, 16), layout="compressed-tensors", group=16)
    parts["weight_scale"] = torch.full((rows, 1), steps)
    # Without zero points 8 is subtracted from every code, with them r.
    shifts = torch.arange(0, 32, 4)
    packed = (torch.arange(rows).view(2, 8) << shifts).sum(1)
    parts["weight_zero_point"] = torch.where(packed >= 2**31, packed - 2**32, packed).int().view(2, 1)
    expected = (8 - torch.arange(rows)) * steps
    assert torch.equal(unpack_layer(parts, bits=4), expected[:, None].expand(rows, 16))


def test_unpack_layer_accepts_only_ordered_g_idx() -> None:
    parts = pack_layer(weight(), layout="gptq", group=16)
    groups = (torch.arange(64) // 16).int()
    assert torch.equal(unpack_layer({**parts, "g_idx": groups}, bits=4), unpack_layer(parts, bits=4))
    with pytest.raises(PackedLayerError, match=r"out of order \(desc_act\)"):
        unpack_layer({**parts, "g_idx": groups.flip(0)}, bits=4)


def test_unpack_layer_names_absent_or_misfitting_part() -> None:
    parts = pack_layer(weight(), layout="gptq", group=16)
    with pytest.raises(PackedLayerError, match=r"lacks 'scales'; it has \['qweight', 'qzeros'\]"):
        unpack_layer({name: part for name, part in parts.items() if name != "scales"}, bits=4)
    with pytest.raises(PackedLayerError, match="do not fit"):
        unpack_layer({**parts, "scales": parts["scales"][:3], "qzeros": parts["qzeros"][:3]}, bits=4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_checkpoint_reads_back(tmp_path: Path, layout: Layout) -> None:
    config = write_tiny_checkpoint(tmp_path, seed=3, dtype=torch.float32, packed=layout, num_layers=1)
    assert inspect_checkpoint(tmp_path).is_complete
    stated = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (
        stated["quant_method"] == {"compressed-tensors": "compressed-tensors", "gptq": "auto-round"}[layout]
    )
    stored = load_file(tmp_path / "model.safetensors")
    loaded = load_state_dict(tmp_path)
    for name, original in random_state_dict(config, seed=3).items():
        packed = is_quantized_layer(name)
        assert (name in stored) != packed
        limit = original.abs().amax() / 7 * 0.51 if packed else 0.0
        assert (loaded[name] - original).abs().amax() <= limit, name
    assert load_reference(tmp_path)(torch.tensor([[3, 4]])).shape == (1, 2, config.vocab_size)
