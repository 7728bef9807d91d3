"""Unpacking of packed layers on the way into the engine, and refusal of others."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serval_sglang.checkpoint.layout import table_name
from serval_sglang.checkpoint.packed import PackedLayerError, pack_layer, unpack_layer
from serval_sglang.checkpoint.quantization import Layout
from serval_sglang.weights.unpacking import (
    Packing,
    is_attention,
    is_layer,
    packing_of,
    require_loadable_attention,
    unpacked,
)

ATTENTION = "model.layers.0.self_attn.1.kv_b_proj"
EXPERT = "model.layers.0.mlp.experts.3.up_proj"
NORM = "model.layers.0.self_attn.1.kv_a_layernorm.weight"


def auto_round(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"get_name": lambda: "auto-round", "weight_bits": 4} | fields)


def compressed(*, symmetric: bool = True, form: str = "pack-quantized") -> SimpleNamespace:
    weights = SimpleNamespace(num_bits=4, symmetric=symmetric)
    return SimpleNamespace(
        get_name=lambda: "compressed_tensors",
        quant_format=form,
        target_scheme_map={"Linear": {"weights": weights}},
    )


def packed(layer: str, layout: Layout) -> dict[str, torch.Tensor]:
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(len(layer)))
    return {f"{layer}.{part}": value for part, value in pack_layer(weight, layout=layout, group=16).items()}


@pytest.mark.parametrize(("config", "layout"), [(auto_round(), "gptq"), (compressed(), "compressed-tensors")])
def test_unpacked_unpacks_attention_and_keeps_experts(config: Any, layout: Layout) -> None:
    packing = packing_of(config)
    assert packing is not None
    attention, expert = packed(ATTENTION, layout), packed(EXPERT, layout)
    # A layer's parts are separated by others, as at the end of a shard.
    names = [*attention, *expert]
    names = names[::2] + names[1::2]
    arriving = {**attention, **expert, NORM: torch.ones(3)}
    came = dict(unpacked(((name, arriving[name]) for name in [*names, NORM]), packing, of=is_attention))
    assert came.keys() == {f"{ATTENTION}.weight", NORM, *expert}
    parts = {name.rpartition(".")[2]: value for name, value in attention.items()}
    assert torch.equal(came[f"{ATTENTION}.weight"], unpack_layer(parts, bits=4))


def test_unpacked_unpacks_experts_if_no_layer_stays_packed() -> None:
    packing = packing_of(auto_round())
    assert packing is not None
    arriving = packed(EXPERT, "gptq")
    assert [name for name, _ in unpacked(arriving.items(), packing, of=is_layer)] == [f"{EXPERT}.weight"]


def test_unpacked_keeps_scales_of_tables() -> None:
    packing = packing_of(compressed())
    assert packing is not None
    scales = [(table_name(0, part="weight_scale"), torch.ones(3))]
    assert list(unpacked(scales, packing, of=is_layer)) == scales


def test_unpacked_keeps_plain_attention() -> None:
    packing = packing_of(auto_round())
    assert packing is not None
    plain = [(f"{ATTENTION}.weight", torch.ones(2))]
    assert list(unpacked(plain, packing, of=is_attention)) == plain


def test_unpacked_waits_for_zero_points() -> None:
    packing = packing_of(compressed(symmetric=False))
    assert packing is not None
    with pytest.raises(PackedLayerError, match=f"1 packed layers lack some of weight_packed.*{ATTENTION}"):
        list(unpacked(packed(ATTENTION, "compressed-tensors").items(), packing, of=is_attention))
    assert packing.required_parts == {"weight_packed", "weight_scale", "weight_zero_point"}


@pytest.mark.parametrize(
    "config",
    [
        None,
        SimpleNamespace(get_name=lambda: "fp8"),
        SimpleNamespace(get_name=lambda: "awq"),
        compressed(form="float-quantized"),
    ],
)
def test_packing_of_returns_none_for_other_layouts(config: Any) -> None:
    assert packing_of(config) is None


def test_packing_of_reads_bits_of_configuration() -> None:
    assert packing_of(auto_round(weight_bits=8)) == Packing(8, frozenset({"qweight", "qzeros", "scales"}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"desc_act": True}, "inputs out of order are not supported"),
        ({"checkpoint_format": "gptq_v2"}, "only GPTQ's first is supported"),
        ({"weight_bits": 3}, "weights of 3 bits do not fill an integer"),
    ],
)
def test_packing_of_refuses_unsupported_variants(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        packing_of(auto_round(**fields))


def quantised_by(name: str) -> SimpleNamespace:
    return SimpleNamespace(get_name=lambda: name)


def test_require_loadable_attention_accepts_loadable_layers() -> None:
    require_loadable_attention(SimpleNamespace(weight=0), None)
    require_loadable_attention(SimpleNamespace(weight=0, weight_scale_inv=0), quantised_by("fp8"))
    # Experts in four bits, attention in sixteen.
    require_loadable_attention(SimpleNamespace(weight=0), quantised_by("auto-round"))
    require_loadable_attention(SimpleNamespace(qweight=0), quantised_by("awq"))


@pytest.mark.parametrize(
    ("method", "part"),
    [("gguf", "qweight"), ("moe_wna16", "qweight"), ("another", "weight_packed")],
)
def test_require_loadable_attention_refuses_other_packings(method: str, part: str) -> None:
    with pytest.raises(ValueError, match=f"packs its attention layers by '{method}'"):
        require_loadable_attention(SimpleNamespace(**{part: 0}), quantised_by(method))
