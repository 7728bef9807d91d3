"""LongcatConfig reads every known spelling of Lite's config.json as one value, and refuses others."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from serval_sglang.checkpoint import tensor_shapes, tiny_config
from serval_sglang.checkpoint.layout import mtp_tensor_shapes
from serval_sglang.config import ConfigError, LongcatConfig, YarnScaling
from serval_sglang.known_configs import LITE as KNOWN_LITE
from serval_sglang.known_configs import LITE_SPARSE, TINY_SPARSE

YARN = {
    "factor": 10,
    "original_max_position_embeddings": 32768,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1,
    "mscale_all_dim": 1,
}
LITE: dict[str, Any] = {
    "architectures": ["LongcatFlashNgramForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_longcat_ngram.LongcatFlashNgramConfig"},
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "vocab_size": 131072,
    "hidden_size": 3072,
    "ffn_hidden_size": 6144,
    "expert_ffn_hidden_size": 1024,
    "num_layers": 14,
    "num_attention_heads": 32,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "n_routed_experts": 256,
    "zero_expert_num": 128,
    "zero_expert_type": "identity",
    "moe_topk": 12,
    "routed_scaling_factor": 6.0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000000.0,
    "rope_scaling": {"type": "yarn", **YARN},
    "max_position_embeddings": 327680,
    "ngram_vocab_size_ratio": 78,
    "emb_neighbor_num": 4,
    "emb_split_num": 4,
    "torch_dtype": "bfloat16",
}


# meituan-longcat/LongCat-Flash-Lite-Sparse, which states no model_type and names the same fields in part
# otherwise.
SPARSE: dict[str, Any] = {
    **{name: value for name, value in LITE.items() if name not in ("auto_map", "torch_dtype")},
    "architectures": ["LongcatCausalLM"],
    "max_position_embeddings": 983040,
    "rope_theta": 1000000.0,
    "rope_scaling": {
        **YARN,
        "rope_type": "deepseek_yarn",
        "factor": 120,
        "original_max_position_embeddings": 8192,
    },
    "attention_method": "LSA",
    "use_mla": 1,
    "oe_vocab_size_ratio": 78,
    "oe_neighbor_num": 4,
    "oe_split_num": 4,
    "mtp_num_layers": 1,
    "index_n_heads": 16,
    "index_head_dim": 128,
    "index_topk": 2048,
    "index_k_norm_type": "rms",
    "cli_factor": 2,
    "index_local_tokens": 1024,
    "index_init_tokens": 16,
}
for usual in ("ngram_vocab_size_ratio", "emb_neighbor_num", "emb_split_num"):
    del SPARSE[usual]


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in LITE.items() if name not in names}


def test_lite_has_published_size() -> None:
    config = LongcatConfig.from_dict(LITE)

    def parameters(shapes: dict[str, tuple[int, ...]]) -> int:
        return sum(math.prod(shape) for shape in shapes.values())

    tables = {name: shape for name, shape in tensor_shapes(config).items() if ".embedders." in name}
    assert config.ngram_base == 10_223_616
    assert [shape[0] for shape in tables.values()] == list(range(10_223_617, 10_223_640, 2))
    assert parameters(tables) == pytest.approx(31.4e9, rel=1e-3)
    # The model card says 68.5 B parameters, without the MTP layer.
    assert parameters(tensor_shapes(config)) == pytest.approx(68.56e9, rel=1e-4)
    assert len(mtp_tensor_shapes(config)) == 17
    assert parameters(mtp_tensor_shapes(config)) == pytest.approx(0.51e9, rel=1e-2)


def test_lite_equals_released_config() -> None:
    assert LongcatConfig.from_dict(LITE) == KNOWN_LITE


def test_sparse_equals_released_config() -> None:
    config = LongcatConfig.from_dict(SPARSE)
    assert config == LITE_SPARSE
    assert config.sparse_attention is not None
    assert config.sparse_attention.indexer_rope_interleave is False
    assert config.full_word_embedding
    assert config.ngram_table_count == 12
    mscale = 0.1 * math.log(120) + 1
    assert config.softmax_scale == pytest.approx(mscale**2 / math.sqrt(192))


def test_sparse_has_published_size() -> None:
    main, mtp = (
        sum(math.prod(shape) for shape in shapes.values())
        for shapes in (tensor_shapes(LITE_SPARSE), mtp_tensor_shapes(LITE_SPARSE))
    )
    # The paper says 69 B: Lite's, with an indexer in each layer.
    assert main + mtp == pytest.approx(69.1e9, rel=1e-3)
    assert main - sum(map(math.prod, tensor_shapes(KNOWN_LITE).values())) == 14 * (
        16 * 128 * 1536 + 128 * 3072 + 128 + 16 * 3072
    )


@pytest.mark.parametrize("config", [LITE_SPARSE, TINY_SPARSE])
def test_config_writes_the_published_layout_of_sparse(config: LongcatConfig) -> None:
    written = config.to_dict()
    assert written["architectures"] == ["LongcatCausalLM"]
    assert SPARSE.keys() - written.keys() == {"use_mla", "mtp_num_layers"}
    assert LongcatConfig.from_dict(json.loads(json.dumps(written))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_method": "NSA"}, r"attention_method must be 'MLA', 'LSA' or absent, got 'NSA'"),
        ({"attention_method": "MLA"}, r"index_topk is given, so attention_method must be 'LSA'"),
        ({"cli_factor": 4}, r"cli_factor must be 2 for LSA, got 4"),
        ({"index_k_norm_type": None}, r"index_k_norm_type must be 'rms' for LSA, got None"),
        ({"index_topk": None}, r"attention_method 'LSA' needs index_topk"),
        ({"index_topk": 1039}, r"index_topk must be at least .* = 1040, got 1039"),
        ({"index_head_dim": 62}, r"index_head_dim must be at least qk_rope_head_dim = 64, got 62"),
        ({"index_n_heads": 0}, r"index_n_heads must be positive, got 0"),
        ({"emb_split_num": 3}, r"emb_split_num and oe_split_num are the same field, got 3 and 4"),
        ({"full_word_embedding": "yes"}, r"full_word_embedding must be of type bool, got 'yes'"),
    ],
)
def test_config_refuses_wrong_values_of_sparse(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LongcatConfig.from_dict({**SPARSE, **changes})


@pytest.mark.parametrize(("source", "unstated"), [(SPARSE, True), (LITE, False)])
def test_config_states_the_scale_of_the_word_embedding(source: dict[str, Any], unstated: bool) -> None:
    assert LongcatConfig.from_dict(source).full_word_embedding is unstated
    config = LongcatConfig.from_dict({**source, "full_word_embedding": not unstated})
    assert config.full_word_embedding is not unstated
    assert LongcatConfig.from_dict(config.to_dict()) == config


def test_config_derives_values_of_lite() -> None:
    config = LongcatConfig.from_dict(LITE)
    mscale = 0.1 * math.log(10) + 1
    assert config.qk_head_dim == 192
    assert config.ngram_table_width == 256
    assert config.num_experts_total == 384
    assert config.q_lora_scale == pytest.approx(math.sqrt(2))
    assert config.kv_lora_scale == pytest.approx(math.sqrt(6))
    assert config.softmax_scale == pytest.approx(mscale**2 / math.sqrt(192))
    assert config.rope_amplitude == 1.0


RESAVED = {
    **without("num_layers", "rope_scaling", "rope_theta", "zero_expert_type", "mla_scale_q_lora"),
    "model_type": "longcat_flash_ngram",
    "num_hidden_layers": 28,
    "head_dim": 64,
    "norm_topk_prob": None,
    "eos_token_id": [2],
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 5000000.0, **YARN},
    "transformers_version": "5.19.0",
}


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(RESAVED, id="re-saved by transformers 5"),
        pytest.param(
            {**LITE, "model_type": "longcat_flash_ngram", "num_hidden_layers": 28}, id="both counts"
        ),
        pytest.param(
            {**LITE, "rope_parameters": {"rope_type": "yarn", "rope_theta": 5000000.0, **YARN}},
            id="both rope spellings",
        ),
        pytest.param({**LITE, "quantization_config": {"quant_method": "fp8"}}, id="quantised copy"),
        pytest.param(
            without("rms_norm_eps", "routed_scaling_factor", "bos_token_id"), id="defaults left out"
        ),
    ],
)
def test_config_reads_variants_of_the_file_alike(source: dict[str, Any]) -> None:
    assert LongcatConfig.from_dict(source) == LongcatConfig.from_dict(LITE)


@pytest.mark.parametrize("rope_scaling", [None, {"rope_type": "default"}])
def test_config_reads_plain_rope(rope_scaling: object) -> None:
    config = LongcatConfig.from_dict({**LITE, "rope_scaling": rope_scaling})
    assert config.rope_scaling is None
    assert config.softmax_scale == pytest.approx(1 / math.sqrt(192))


def test_config_writes_meituans_layout_and_reads_it_back(tmp_path: Path) -> None:
    for config in (tiny_config(), tiny_config(rope_scaling=None), LongcatConfig.from_dict(LITE)):
        written = config.to_dict()
        assert written["architectures"] == ["LongcatFlashNgramForCausalLM"]
        assert not {"model_type", "auto_map", "num_hidden_layers"} & written.keys()
        file = tmp_path / "config.json"
        file.write_text(json.dumps(written))
        assert LongcatConfig.from_json_file(file) == config


REQUIRED = [
    "vocab_size",
    "hidden_size",
    "num_layers",
    "v_head_dim",
    "zero_expert_num",
    "rope_theta",
    "ngram_vocab_size_ratio",
    "emb_neighbor_num",
]


@pytest.mark.parametrize("name", REQUIRED)
def test_config_names_absent_dimension(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        LongcatConfig.from_dict(without(name))


def test_config_names_all_absent_dimensions_at_once() -> None:
    with pytest.raises(ConfigError, match=r"hidden_size, .*rope_theta"):
        LongcatConfig.from_dict(without("hidden_size", "rope_theta"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 3071}, r"hidden_size must be divisible .* 12, got 3071"),
        ({"hidden_size": "3072"}, r"hidden_size must be of type int, got '3072'"),
        ({"num_layers": 14.0}, r"num_layers must be of type int, got 14.0"),
        ({"num_attention_heads": True}, r"num_attention_heads must be of type int, got True"),
        ({"kv_lora_rank": 0}, r"kv_lora_rank must be positive, got 0"),
        ({"zero_expert_num": -1}, r"zero_expert_num must be at least 0, got -1"),
        ({"emb_neighbor_num": 1}, r"emb_neighbor_num must be at least 2"),
        ({"qk_rope_head_dim": 63}, r"qk_rope_head_dim must be even, got 63"),
        ({"moe_topk": 385}, r"moe_topk must be at most .* 384, got 385"),
        ({"eos_token_id": [2, 3]}, r"eos_token_id must be of type int, got \[2, 3\]"),
        ({"norm_topk_prob": True}, r"norm_topk_prob must be False or absent, got True"),
        ({"zero_expert_type": "copy"}, r"zero_expert_type must be 'identity' or absent, got 'copy'"),
        ({"tie_word_embeddings": True}, r"tie_word_embeddings must be False"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, r"'yarn' or 'deepseek_yarn', got 'linear'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, r"lacks original_max_position_embeddings"),
        (
            {"rope_scaling": {"type": "yarn", **YARN, "factor": "10"}},
            r"factor must be of type float, got '10'",
        ),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", **YARN}}, r"rope_theta is given twice"),
        ({"rope_parameters": {"rope_type": "default"}}, r"rope_scaling is given twice"),
    ],
)
def test_config_refuses_wrong_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LongcatConfig.from_dict({**LITE, **changes})


def test_config_refuses_odd_num_hidden_layers() -> None:
    with pytest.raises(ConfigError, match="must be even, got 27"):
        LongcatConfig.from_dict({**without("num_layers"), "num_hidden_layers": 27})


@pytest.mark.parametrize("text", ["{", "[]", json.dumps(without("hidden_size"))])
def test_config_names_broken_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json: "):
        LongcatConfig.from_json_file(file)


def test_rope_amplitude_is_one_unless_temperatures_differ() -> None:
    uneven = YarnScaling(factor=10, original_max_position_embeddings=256, mscale=0.5)
    expected = (0.05 * math.log(10) + 1) / (0.1 * math.log(10) + 1)
    assert tiny_config(rope_scaling=uneven).rope_amplitude == pytest.approx(expected)
