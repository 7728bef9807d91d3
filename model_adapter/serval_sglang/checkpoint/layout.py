"""Names and shapes of the tensors in a LongCat-Flash-Lite checkpoint."""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from serval_sglang.config import LongcatConfig

Shape = tuple[int, ...]

# Copies re-saved by transformers repeat the word embedding under the n-gram module.
ALIASES: Mapping[str, str] = {
    "model.ngram_embeddings.word_embeddings.weight": "model.embed_tokens.weight",
}

# LongCat-Flash-Lite-Sparse and LongCat-2.0 spell the tensors of the n-gram embedding in this way.
_OTHER_NGRAM_NAME = re.compile(r"model\.oe_embed_(tokens|proj)(\d+)\.weight")
_USUAL_NGRAM_NAME = re.compile(r"model\.ngram_embeddings\.(embedders|post_projs)\.(\d+)\.weight")
_USUAL_MODULES = {"tokens": "embedders", "proj": "post_projs"}
_OTHER_MODULES = {usual: other for other, usual in _USUAL_MODULES.items()}

# Stored in float32 in checkpoints of any dtype, because rounding the router moves tokens between experts.
ROUTER_SUFFIXES = ("mlp.router.classifier.weight", "mlp.router.e_score_correction_bias")

# Prefix of the tensors of the multi-token-prediction layer.
MTP_PREFIX = "model.mtp."
# For a checkpoint without that layer, where drafts were asked for.
NO_MTP_LAYER = (
    f"it has no multi-token-prediction layer (17 tensors {MTP_PREFIX}*), which --mtp-steps needs; copies "
    "that transformers has saved again lack it"
)

# Key in config.json if the tables are stored in eight bits, which a server must know before it loads them.
TABLE_DTYPE_KEY = "serval_ngram_table_dtype"


def table_name(table: int, *, part: Literal["weight", "weight_scale"] = "weight") -> str:
    """Return the name of an n-gram table's tensor, or of an eight-bit table's scales (float32 [rows])."""
    return f"model.ngram_embeddings.embedders.{table}.{part}"


def usual_name(stored_name: str) -> str:
    """Return the name in `tensor_shapes` of a tensor that is stored under the other spelling, or its own."""
    match = _OTHER_NGRAM_NAME.fullmatch(stored_name)
    if match is None:
        return stored_name
    return f"model.ngram_embeddings.{_USUAL_MODULES[match[1]]}.{match[2]}.weight"


def published_name(name: str, config: LongcatConfig) -> str:
    """Return the name under which Meituan's checkpoints of this model store a tensor of `tensor_shapes`."""
    match = _USUAL_NGRAM_NAME.fullmatch(name)
    if match is None or config.sparse_attention is None:
        return name
    return f"model.oe_embed_{_OTHER_MODULES[match[1]]}{match[2]}.weight"


def tensor_shapes(config: LongcatConfig) -> dict[str, Shape]:
    """Map the name of every tensor that the model needs to its shape, in order of use."""
    return dict(_main_tensors(config))


def mtp_tensor_shapes(config: LongcatConfig) -> dict[str, Shape]:
    """Map names to shapes for the multi-token-prediction layer, whose 17 tensors a checkpoint may omit."""
    return dict(_mtp_tensors(config))


def _main_tensors(config: LongcatConfig) -> Iterator[tuple[str, Shape]]:
    hidden, vocab = config.hidden_size, config.vocab_size
    yield "model.embed_tokens.weight", (vocab, hidden)
    for i in range(config.ngram_table_count):
        yield table_name(i), (config.ngram_table_rows(i), config.ngram_table_width)
        yield f"model.ngram_embeddings.post_projs.{i}.weight", (hidden, config.ngram_table_width)
    for layer in range(config.num_layers):
        yield from _layer_tensors(config, f"model.layers.{layer}")
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocab, hidden)


def _layer_tensors(config: LongcatConfig, prefix: str) -> Iterator[tuple[str, Shape]]:
    hidden = config.hidden_size
    for block in range(2):
        yield f"{prefix}.input_layernorm.{block}.weight", (hidden,)
        yield from _attention_tensors(config, f"{prefix}.self_attn.{block}")
        # The second attention of a layer takes the tokens that the first has chosen.
        if block == 0:
            yield from _indexer_tensors(config, f"{prefix}.self_attn.0.indexer")
        yield f"{prefix}.post_attention_layernorm.{block}.weight", (hidden,)
        yield from _swiglu_tensors(hidden, config.ffn_hidden_size, f"{prefix}.mlps.{block}")
    yield f"{prefix}.mlp.router.classifier.weight", (config.num_experts_total, hidden)
    yield f"{prefix}.mlp.router.e_score_correction_bias", (config.num_experts_total,)
    for expert in range(config.n_routed_experts):
        yield from _swiglu_tensors(hidden, config.expert_ffn_hidden_size, f"{prefix}.mlp.experts.{expert}")


def _attention_tensors(config: LongcatConfig, prefix: str) -> Iterator[tuple[str, Shape]]:
    hidden, heads = config.hidden_size, config.num_attention_heads
    q_rank, kv_rank = config.q_lora_rank, config.kv_lora_rank
    yield f"{prefix}.q_a_proj.weight", (q_rank, hidden)
    yield f"{prefix}.q_a_layernorm.weight", (q_rank,)
    yield f"{prefix}.q_b_proj.weight", (heads * config.qk_head_dim, q_rank)
    yield f"{prefix}.kv_a_proj_with_mqa.weight", (kv_rank + config.qk_rope_head_dim, hidden)
    yield f"{prefix}.kv_a_layernorm.weight", (kv_rank,)
    yield f"{prefix}.kv_b_proj.weight", (heads * (config.qk_nope_head_dim + config.v_head_dim), kv_rank)
    yield f"{prefix}.o_proj.weight", (hidden, heads * config.v_head_dim)


def _indexer_tensors(config: LongcatConfig, prefix: str) -> Iterator[tuple[str, Shape]]:
    sparse = config.sparse_attention
    if sparse is None:
        return
    heads, size = sparse.index_n_heads, sparse.index_head_dim
    yield f"{prefix}.wq_b.weight", (heads * size, config.q_lora_rank)
    yield f"{prefix}.wk.weight", (size, config.hidden_size)
    yield f"{prefix}.k_norm.weight", (size,)
    yield f"{prefix}.weights_proj.weight", (heads, config.hidden_size)


def _swiglu_tensors(hidden: int, intermediate: int, prefix: str) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.gate_proj.weight", (intermediate, hidden)
    yield f"{prefix}.up_proj.weight", (intermediate, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, intermediate)


def _mtp_tensors(config: LongcatConfig) -> Iterator[tuple[str, Shape]]:
    hidden, layer = config.hidden_size, f"{MTP_PREFIX}layers.0"
    yield f"{MTP_PREFIX}embed_tokens.weight", (config.vocab_size, hidden)
    yield f"{layer}.enorm.m.weight", (hidden,)
    yield f"{layer}.hnorm.m.weight", (hidden,)
    yield f"{layer}.eh_proj.weight", (hidden, 2 * hidden)
    yield f"{layer}.input_layernorm.weight", (hidden,)
    yield f"{layer}.post_attention_layernorm.weight", (hidden,)
    yield from _attention_tensors(config, f"{layer}.self_attn")
    yield from _swiglu_tensors(hidden, config.ffn_hidden_size, f"{layer}.transformer_layer.mlp")
    yield f"{MTP_PREFIX}norm.weight", (hidden,)
