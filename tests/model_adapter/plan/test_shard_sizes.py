"""Bytes of a rank: the published sizes at TP 1, and divided and replicated parts at other splits."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serval_sglang.checkpoint.inspection import inspect_checkpoint
from serval_sglang.checkpoint.layout import mtp_tensor_shapes
from serval_sglang.checkpoint.parts import Part
from serval_sglang.known_configs import LITE
from serval_sglang.plan.shard_sizes import ABSORBED, ROTARY, PlanError, shard_sizes
from serval_testkit.header_only_checkpoint import stored_fp8, stored_plain, write_header_only_checkpoint

GB = 1e9


def sizes(tp: int = 1, ep: int = 1, **options: Any) -> dict[str, int]:
    options = {"weight_dtype": "bf16", "tables": "device", **options}
    return dict(shard_sizes(options.pop("config", LITE), tp=tp, ep=ep, **options).device_bytes)


def stored(device_bytes: dict[str, int]) -> int:
    """Bytes of the parts that a checkpoint stores."""
    return sum(device_bytes.values()) - device_bytes[ABSORBED] - device_bytes[ROTARY]


def test_shard_sizes_equal_published_sizes_in_bf16() -> None:
    found = sizes()
    assert found[Part.NGRAM_TABLES] == 2 * 31_406_985_216
    assert found[Part.NGRAM_PROJECTIONS] == pytest.approx(2 * 9.44e6, rel=1e-3)
    assert found[Part.WORD_EMBEDDING] == found[Part.HEAD] == 2 * 402_653_184
    assert found[Part.ATTENTION] == pytest.approx(2 * 28 * 32.7e6, rel=1e-3)
    assert found[Part.DENSE_MLPS] == pytest.approx(2 * 28 * 56.6e6, rel=1e-3)
    # The router is float32: twice as large as with 2 bytes per parameter.
    assert found[Part.EXPERTS] + found[Part.ROUTER] / 2 == pytest.approx(2 * 14 * 2.417e9, rel=1e-3)
    assert stored(found) - found[Part.ROUTER] / 2 == pytest.approx(2 * 68.56e9, rel=1e-4)


def test_shard_sizes_equal_published_sizes_in_fp8_and_8_bit() -> None:
    found = sizes(weight_dtype="fp8")
    body = sum(found[part] for part in (Part.ATTENTION, Part.DENSE_MLPS, Part.EXPERTS))
    assert body == pytest.approx(36.3 * GB, rel=2e-3)
    assert stored(found) == pytest.approx(102 * GB, rel=2e-2)
    eight_bit = sizes(weight_dtype="fp8", tables="8bit")
    assert eight_bit[Part.NGRAM_TABLES] == 31_406_985_216 + 4 * 122_683_536
    assert stored(eight_bit) == pytest.approx(70 * GB, rel=1e-2)


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8"])
def test_shard_sizes_of_one_rank_equal_checkpoint(tmp_path: Path, weight_dtype: str) -> None:
    config = replace(LITE, num_layers=2)
    tensors = stored_fp8(config) if weight_dtype == "fp8" else stored_plain(config)
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]} if weight_dtype == "fp8" else None
    write_header_only_checkpoint(tmp_path, config, tensors, quantization_config=fp8)
    planned = sizes(config=config, weight_dtype=weight_dtype)
    del planned[ABSORBED], planned[ROTARY]
    inspected = inspect_checkpoint(tmp_path)
    assert inspected.is_complete
    assert planned == {part: size.size_bytes for part, size in inspected.parts.items()}


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8"])
def test_shard_sizes_hold_the_mtp_layer_in_bf16(weight_dtype: str) -> None:
    without, whole, half = (
        sizes(weight_dtype=weight_dtype, **options) for options in ({}, {"mtp": True}, {"mtp": True, "tp": 2})
    )
    stored_shapes = mtp_tensor_shapes(LITE)
    assert whole.pop(Part.MTP) == 2 * sum(math.prod(shape) for shape in stored_shapes.values())
    absorbed = without.pop(ABSORBED)
    assert whole.pop(ABSORBED) == absorbed * 29 // 28
    assert whole == without
    # Latent projections, eh_proj and norms are whole on each rank.
    shared = ("q_a_proj", "kv_a_proj", "eh_proj", "norm")
    on_each = sum(
        math.prod(shape) for name, shape in stored_shapes.items() if any(part in name for part in shared)
    )
    total = sum(math.prod(shape) for shape in stored_shapes.values())
    assert half[Part.MTP] == 2 * (on_each + (total - on_each) // 2)


def test_shard_sizes_put_host_tables_off_gpu() -> None:
    found = shard_sizes(LITE, tp=2, ep=1, weight_dtype="bf16", tables="host")
    assert found.device_bytes[Part.NGRAM_TABLES] == 0
    assert found.host_bytes * 2 == 2 * 31_406_985_216
    assert shard_sizes(LITE, tp=2, ep=1, weight_dtype="bf16", tables="8bit").host_bytes == 0


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_shard_sizes_divide_all_but_replicated_parts(tp: int) -> None:
    one, rank = sizes(), sizes(tp)
    shared = (
        Part.NGRAM_TABLES,
        Part.NGRAM_PROJECTIONS,
        Part.WORD_EMBEDDING,
        Part.HEAD,
        Part.DENSE_MLPS,
        Part.EXPERTS,
    )
    for part in shared:
        assert rank[part] * tp == one[part], part
    for part in (Part.ROUTER, Part.NORMS, ROTARY):
        assert rank[part] == one[part], part
    # The latent projections, 3072 x (1536 + 512 + 64) twice per layer, are whole on every rank.
    whole = 2 * 28 * 3072 * (1536 + 512 + 64)
    assert (rank[Part.ATTENTION] - whole) * tp == one[Part.ATTENTION] - whole


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8"])
def test_shard_sizes_under_ep_equal_those_under_tp(weight_dtype: str) -> None:
    by_tp = sizes(8, weight_dtype=weight_dtype)
    for ep in (2, 4, 8):
        assert sizes(8, ep, weight_dtype=weight_dtype) == by_tp


def test_shard_sizes_count_absorbed_projection() -> None:
    kv_b = 2 * 28 * 32 * (128 + 128) * 512
    assert sizes()[ABSORBED] == sizes(weight_dtype="fp8")[ABSORBED] == kv_b
    assert sizes(4)[ABSORBED] == kv_b // 4


def test_shard_sizes_count_rotary_angles_of_longest_context() -> None:
    # 327,680 positions and 256 to spare, 32 cosines and 32 sines.
    assert sizes()[ROTARY] == sizes(8)[ROTARY] == (327_680 + 256) * 64 * 4
    plain = replace(LITE, rope_scaling=None, max_position_embeddings=1000)
    assert sizes(config=plain)[ROTARY] == 1280 * 64 * 4
    # YaRN's table is as long as its factor says, whatever the model's limit.
    assert sizes(config=replace(LITE, max_position_embeddings=1000))[ROTARY] == 327_680 * 64 * 4


def test_shard_sizes_pad_vocabulary_like_upstream() -> None:
    odd = replace(LITE, vocab_size=1000)
    # 1024 is the next multiple of 64; 1152 is that of 64 * 3, which 3 ranks can share.
    assert sizes(2, config=odd)[Part.HEAD] == 2 * 3072 * 1024 // 2
    triple = replace(odd, num_attention_heads=3, ffn_hidden_size=3, expert_ffn_hidden_size=3, hidden_size=36)
    assert sizes(3, config=triple)[Part.HEAD] == 2 * 36 * 1152 // 3


@pytest.mark.parametrize(
    ("tp", "ep", "dtype", "complaint"),
    [
        (
            3,
            1,
            "bf16",
            "num_attention_heads = 32 cannot be shared by 3 ranks; width of an n-gram table = 256",
        ),
        (4, 3, "bf16", "ep must divide tp, got tp 4 and ep 3"),
        (64, 1, "bf16", "num_attention_heads = 32 cannot be shared by 64 ranks"),
        (16, 1, "fp8", "expert_ffn_hidden_size = 1024 cannot be shared by 16 ranks in blocks of 128"),
    ],
)
def test_shard_sizes_name_dimensions_that_cannot_be_split(
    tp: int, ep: int, dtype: str, complaint: str
) -> None:
    with pytest.raises(PlanError, match=complaint):
        sizes(tp, ep, weight_dtype=dtype)


def test_shard_sizes_allow_ep_where_expert_width_forbids_tp() -> None:
    assert sizes(16, 2, weight_dtype="fp8")[Part.EXPERTS] > 0
