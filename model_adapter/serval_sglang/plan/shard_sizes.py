"""Bytes of weights on one tensor-parallel rank, by part, as this adapter and SGLang 0.5.23 split them.

Constants of less than a kilobyte are left out. tests/model_adapter/models/test_full_size.py compares these
sizes with those of the model that SGLang builds.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from serval_sglang.checkpoint.layout import Shape, mtp_tensor_shapes, tensor_shapes
from serval_sglang.checkpoint.parts import Part, part_of
from serval_sglang.config import LongcatConfig

WeightDtype = Literal["bf16", "fp8"]
TablePlacement = Literal["device", "host", "8bit"]

# Key and value halves of kv_b_proj, laid out for attention in the latent space; SGLang keeps both.
ABSORBED = "absorbed kv_b_proj"

# Cosine and sine of every position; all layers share one table, and each rank holds it.
ROTARY = "rotary angles"

_BF16_BYTES = 2
_FLOAT32_BYTES = 4
_FP8_BLOCK = 128
_FP8_PARTS = frozenset({Part.ATTENTION, Part.DENSE_MLPS, Part.EXPERTS})
_VOCABULARY_PADDING = 64
_SPARE_POSITIONS = 256
_POSITION_PADDING = 128

# Dimension along which a linear layer is split. Every rank holds latent projections (q_a, kv_a) and the
# indexer of sparse attention whole.
_SPLIT_DIMENSION = {
    "q_b_proj": 0,
    "kv_b_proj": 0,
    "o_proj": 1,
    "gate_proj": 0,
    "up_proj": 0,
    "down_proj": 1,
}


class PlanError(ValueError):
    """The model cannot be split as requested."""


class _Kind(NamedTuple):
    """Tensors of the same part, module and shape, such as the gate_proj of every expert in every layer."""

    part: Part
    module: str
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSizes:
    """Bytes of one rank: on its GPU by part, and in host memory if the n-gram tables are there."""

    device_bytes: Mapping[str, int]
    host_bytes: int


def shard_sizes(
    config: LongcatConfig,
    *,
    tp: int,
    ep: int,
    weight_dtype: WeightDtype,
    tables: TablePlacement,
    mtp: bool = False,
) -> ShardSizes:
    """Return the size of the largest rank; all are equal except for the padding of the vocabulary.

    - `tp`: tensor-parallel ranks; `ep`: ranks among them that divide whole experts (`--ep-size`)
    - `weight_dtype` of linear layers: "fp8" adds a float32 scale for each block of 128 x 128. Embeddings,
      n-gram projections, norms and head are bfloat16, the router is float32
    - `mtp`: with the multi-token-prediction layer, which is held in bfloat16
    - `tables`: bfloat16 on the GPU or in host memory, or 8 bit on the GPU with one float32 scale per row

    Raises `PlanError`, listing them, if dimensions cannot be divided among the ranks.
    """
    _require_divisible(config, tp=tp, ep=ep, weight_dtype=weight_dtype)
    device_bytes: dict[str, int] = defaultdict(int)
    host_bytes = 0
    for kind, total in _tensor_kinds(config, mtp=mtp).items():
        count = total // ep if kind.part is Part.EXPERTS else total
        on_rank = _rank_shape(kind, tp=tp, ep=ep)
        if kind.part is Part.NGRAM_TABLES and tables == "host":
            host_bytes += count * math.prod(on_rank) * _BF16_BYTES
            device_bytes[kind.part] += 0
        else:
            stored = _stored_bytes(kind.part, on_rank, weight_dtype=weight_dtype, tables=tables)
            device_bytes[kind.part] += count * stored
    device_bytes[ABSORBED] = _absorbed_bytes(config, tp=tp, mtp=mtp)
    device_bytes[ROTARY] = _rotary_bytes(config)
    return ShardSizes(device_bytes=dict(device_bytes), host_bytes=host_bytes)


@lru_cache
def _tensor_kinds(config: LongcatConfig, *, mtp: bool) -> Mapping[_Kind, int]:
    """Return the number of tensors of each kind."""
    shapes = tensor_shapes(config) | (mtp_tensor_shapes(config) if mtp else {})
    return Counter(_Kind(part_of(name), name.split(".")[-2], shape) for name, shape in shapes.items())


def _rank_shape(kind: _Kind, *, tp: int, ep: int) -> Shape:
    """Return the shape of a rank's piece of a tensor."""
    match kind.part:
        case Part.WORD_EMBEDDING | Part.HEAD:
            return _vocabulary_shape(kind.shape, tp=tp)
        case Part.MTP if kind.module == "embed_tokens":
            return _vocabulary_shape(kind.shape, tp=tp)
        case Part.NGRAM_TABLES | Part.NGRAM_PROJECTIONS:
            return kind.shape[0], kind.shape[1] // tp
        case Part.ATTENTION | Part.DENSE_MLPS | Part.EXPERTS | Part.MTP:
            ranks = tp // ep if kind.part is Part.EXPERTS else tp
            split = _SPLIT_DIMENSION.get(kind.module)
            return tuple(size // ranks if i == split else size for i, size in enumerate(kind.shape))
        case _:
            return kind.shape


def _vocabulary_shape(shape: Shape, *, tp: int) -> Shape:
    # VocabParallelEmbedding pads further only if a multiple of 64 does not divide among the ranks.
    is_enough = _round_up(shape[0], _VOCABULARY_PADDING) % tp == 0
    padding = _VOCABULARY_PADDING * (1 if is_enough else tp)
    return _round_up(shape[0], padding) // tp, shape[1]


def _stored_bytes(part: Part, shape: Shape, *, weight_dtype: WeightDtype, tables: TablePlacement) -> int:
    elements = math.prod(shape)
    if part is Part.ROUTER:
        return elements * _FLOAT32_BYTES
    if part is Part.NGRAM_TABLES and tables == "8bit":
        return elements + shape[0] * _FLOAT32_BYTES
    if part in _FP8_PARTS and weight_dtype == "fp8":
        blocks = math.prod(-(-size // _FP8_BLOCK) for size in shape)
        return elements + blocks * _FLOAT32_BYTES
    return elements * _BF16_BYTES


def _absorbed_bytes(config: LongcatConfig, *, tp: int, mtp: bool) -> int:
    """Count `w_kc` and `w_vc` of all attentions in bfloat16 (sglang/srt/models/longcat_flash.py,
    `LongcatFlashForCausalLM.post_load_weights` makes contiguous copies, dequantised from FP8)."""
    heads = config.num_attention_heads // tp
    values = heads * (config.qk_nope_head_dim + config.v_head_dim) * config.kv_lora_rank
    return (2 * config.num_layers + mtp) * values * _BF16_BYTES


def _rotary_bytes(config: LongcatConfig) -> int:
    """Count the table of rotary angles in float32 for the longest context (sglang/srt/utils/common.py,
    `reserve_rope_cache_for_long_sequences`, which is a few rows longer than the model's positions)."""
    scaling = config.rope_scaling
    positions = _round_up(config.max_position_embeddings + _SPARE_POSITIONS, _POSITION_PADDING)
    if scaling is not None:
        positions = max(positions, math.ceil(scaling.original_max_position_embeddings * scaling.factor))
    return positions * config.qk_rope_head_dim * _FLOAT32_BYTES


def _require_divisible(config: LongcatConfig, *, tp: int, ep: int, weight_dtype: WeightDtype) -> None:
    if tp % ep:
        raise PlanError(f"ep must divide tp, got tp {tp} and ep {ep}.")
    expert_ranks = tp // ep
    shared = [
        ("num_attention_heads", config.num_attention_heads, tp, 1),
        ("width of an n-gram table", config.ngram_table_width, tp, 1),
        ("n_routed_experts", config.n_routed_experts, ep, 1),
        ("ffn_hidden_size", config.ffn_hidden_size, tp, _FP8_BLOCK),
        ("expert_ffn_hidden_size", config.expert_ffn_hidden_size, expert_ranks, _FP8_BLOCK),
        ("width of all query heads", config.num_attention_heads * config.qk_head_dim, tp, _FP8_BLOCK),
    ]
    problems = []
    for dimension, size, ranks, block in shared:
        unit = block if weight_dtype == "fp8" and ranks > 1 else 1
        if size % (ranks * unit):
            blocks = f" in blocks of {unit}" if unit > 1 else ""
            problems.append(f"{dimension} = {size} cannot be shared by {ranks} ranks{blocks}")
    if problems:
        raise PlanError(f"tp {tp} and ep {ep} do not suit this model: {'; '.join(problems)}.")


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
