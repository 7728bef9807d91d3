"""Configurations known by name."""

from dataclasses import replace

from serval_sglang.config import WITHOUT_NGRAMS, LongcatConfig, SparseAttention, YarnScaling

# meituan-longcat/LongCat-Flash-Lite.
LITE = LongcatConfig(
    vocab_size=131072,
    hidden_size=3072,
    ffn_hidden_size=6144,
    expert_ffn_hidden_size=1024,
    num_layers=14,
    num_attention_heads=32,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    n_routed_experts=256,
    zero_expert_num=128,
    moe_topk=12,
    ngram_vocab_size_ratio=78,
    emb_neighbor_num=4,
    emb_split_num=4,
    max_position_embeddings=327680,
    rope_theta=5000000.0,
    rope_scaling=YarnScaling(factor=10.0, original_max_position_embeddings=32768),
)

# meituan-longcat/LongCat-Flash-Lite-Sparse: Lite's dimensions, sparse attention, three times its context.
LITE_SPARSE = replace(
    LITE,
    max_position_embeddings=983040,
    rope_theta=1000000.0,
    rope_scaling=YarnScaling(factor=120, original_max_position_embeddings=8192),
    sparse_attention=SparseAttention(
        index_n_heads=16,
        index_head_dim=128,
        index_topk=2048,
        index_init_tokens=16,
        index_local_tokens=1024,
    ),
    full_word_embedding=True,
)

# meituan-longcat/LongCat-Flash-Chat and, as far as known, -Thinking: no n-gram embedding, no YaRN.
FLASH = LongcatConfig(
    vocab_size=131072,
    hidden_size=6144,
    ffn_hidden_size=12288,
    expert_ffn_hidden_size=2048,
    num_layers=28,
    num_attention_heads=64,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    n_routed_experts=512,
    zero_expert_num=256,
    moe_topk=12,
    max_position_embeddings=131072,
    rope_theta=10000000.0,
    **WITHOUT_NGRAMS,
)

# The structure of Lite at sizes that expose wrong code: four-gram look-back and twelve tables; a vocabulary
# that is not a power of two, so that V^d mod M differs from a shift; a hidden size that is not a multiple of
# 256; value heads wider than the position-free part of key heads; YaRN from position 256 on.
TINY = LongcatConfig(
    vocab_size=307,
    hidden_size=96,
    ffn_hidden_size=128,
    expert_ffn_hidden_size=48,
    num_layers=3,
    num_attention_heads=4,
    q_lora_rank=48,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=16,
    v_head_dim=24,
    n_routed_experts=16,
    zero_expert_num=8,
    moe_topk=5,
    ngram_vocab_size_ratio=3,
    emb_neighbor_num=4,
    emb_split_num=4,
    max_position_embeddings=2560,
    rope_theta=10000.0,
    rope_scaling=YarnScaling(factor=10.0, original_max_position_embeddings=256),
)

# The same in whole blocks of 128 wherever an engine splits or joins FP8 layers, for up to two ranks.
TINY_FP8 = replace(
    TINY,
    hidden_size=384,
    ffn_hidden_size=256,
    expert_ffn_hidden_size=256,
    q_lora_rank=128,
    qk_nope_head_dim=64,
    qk_rope_head_dim=64,
    v_head_dim=64,
)

# The structure of Flash: the same without n-grams and without YaRN.
TINY_FLASH = replace(TINY, rope_scaling=None, **WITHOUT_NGRAMS)

# TINY with sparse attention that leaves out most of a prompt of a few hundred tokens. The indexer's heads are
# wider than what is rotated of them.
TINY_SPARSE = replace(
    TINY,
    sparse_attention=SparseAttention(
        index_n_heads=8,
        index_head_dim=24,
        index_topk=48,
        index_init_tokens=4,
        index_local_tokens=16,
    ),
    full_word_embedding=True,
)
