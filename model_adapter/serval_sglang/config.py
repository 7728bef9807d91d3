"""The model configuration: Meituan's config.json of a model of the family as a typed, checked value.

Fields have the names of the file; everything derived from them is a property. A copy re-saved by transformers
(`model_type`, `num_hidden_layers`, `rope_parameters`) yields the same value. A model without an n-gram
embedding is one with n-grams of one token: no tables, and a mean over the word's row alone.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Self

# Names in config.json: of LongCat-Flash-Lite, of LongCat-Flash-Chat and -Thinking, and of
# LongCat-Flash-Lite-Sparse, whose name other models share that the fields tell apart.
NGRAM_ARCHITECTURE = "LongcatFlashNgramForCausalLM"
FLASH_ARCHITECTURE = "LongcatFlashForCausalLM"
SPARSE_ARCHITECTURE = "LongcatCausalLM"

# Fields of a model without an n-gram embedding, whose file has none of them.
WITHOUT_NGRAMS: Mapping[str, Any] = {"ngram_vocab_size_ratio": 1, "emb_neighbor_num": 1, "emb_split_num": 1}

# Value of each switch in the released checkpoints, the only value that this package supports.
_SUPPORTED_VALUES: Mapping[str, object] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "norm_topk_prob": False,
    "router_bias": False,
    "tie_word_embeddings": False,
    "zero_expert_type": "identity",
}

# Value of `attention_method` with which the other fields of LongCat Sparse Attention count.
_SPARSE_METHOD = "LSA"
# The only values of its fields that this package supports.
_SUPPORTED_SPARSE_VALUES: Mapping[str, object] = {"index_k_norm_type": "rms", "cli_factor": 2}
# Fields that later models of the family spell in another way.
_OTHER_SPELLINGS: Mapping[str, str] = {
    "ngram_vocab_size_ratio": "oe_vocab_size_ratio",
    "emb_neighbor_num": "oe_neighbor_num",
    "emb_split_num": "oe_split_num",
}

_ALLOWED_TYPES: Mapping[type, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,)}
_MAY_BE_ZERO = (
    "zero_expert_num",
    "bos_token_id",
    "eos_token_id",
    "mscale",
    "mscale_all_dim",
    "index_init_tokens",
)


class ConfigError(ValueError):
    """A config.json that does not describe a model this package can compute."""


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """Parameters of YaRN context extension (arXiv:2309.00071) in DeepSeek's form."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0

    def __post_init__(self) -> None:
        _check_field_types(self)

    def to_dict(self) -> dict[str, Any]:
        # Readers disagree on the name of the type: DeepSeek's code says "type", transformers "rope_type".
        return {"rope_type": "yarn", "type": "yarn", **{f.name: getattr(self, f.name) for f in fields(self)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseAttention:
    """LongCat Sparse Attention (LSA, arXiv:2608.01662): each query attends to at most `index_topk` tokens.

    - `index_n_heads`, `index_head_dim`: query heads of the indexer and their size, which is that of its key
    - `index_topk`: tokens chosen for a query, of which the first `index_init_tokens` of the sequence and the
      last `index_local_tokens` before and including the query always are
    - `indexer_rope_interleave`: True if the indexer rotates neighbouring dimensions as one pair, as attention
      does; False if it pairs dimension j with j + half
    """

    index_n_heads: int
    index_head_dim: int
    index_topk: int
    index_init_tokens: int
    index_local_tokens: int
    indexer_rope_interleave: bool = False

    def __post_init__(self) -> None:
        _check_field_types(self)
        always = self.index_init_tokens + self.index_local_tokens
        if always > self.index_topk:
            raise ConfigError(
                f"index_topk must be at least index_init_tokens + index_local_tokens = {always}, "
                f"got {self.index_topk!r}."
            )

    def to_dict(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"attention_method": _SPARSE_METHOD, **_SUPPORTED_SPARSE_VALUES, **values}


@dataclass(frozen=True, slots=True, kw_only=True)
class LongcatConfig:
    """A config.json of the family. Dimensions have no defaults: a file must state them all.

    `full_word_embedding` is True if only the n-gram rows are divided by their number plus one, and the word
    row is added as it is. Published files do not state it, and public readers of Lite-Sparse differ
    (SIBLINGS.md); without it, it is True beside `sparse_attention`.
    """

    vocab_size: int
    hidden_size: int
    ffn_hidden_size: int
    expert_ffn_hidden_size: int
    num_layers: int
    num_attention_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    n_routed_experts: int
    zero_expert_num: int
    moe_topk: int
    ngram_vocab_size_ratio: float
    emb_neighbor_num: int
    emb_split_num: int
    max_position_embeddings: int
    rope_theta: float
    rope_scaling: YarnScaling | None = None
    sparse_attention: SparseAttention | None = None
    full_word_embedding: bool = False
    mla_scale_q_lora: bool = True
    mla_scale_kv_lora: bool = True
    routed_scaling_factor: float = 6.0
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    bos_token_id: int = 1
    eos_token_id: int = 2

    def __post_init__(self) -> None:
        _check_field_types(self)
        if self.has_ngrams and self.hidden_size % self.ngram_table_count:
            raise ConfigError(
                "hidden_size must be divisible by the number of n-gram tables, (emb_neighbor_num - 1) * "
                f"emb_split_num = {self.ngram_table_count}, got {self.hidden_size!r}."
            )
        if self.qk_rope_head_dim % 2:
            raise ConfigError(f"qk_rope_head_dim must be even, got {self.qk_rope_head_dim!r}.")
        sparse = self.sparse_attention
        if sparse is not None and not self.has_ngrams:
            raise ConfigError("attention_method 'LSA' is supported only beside an n-gram embedding.")
        if sparse is not None and sparse.index_head_dim < self.qk_rope_head_dim:
            raise ConfigError(
                f"index_head_dim must be at least qk_rope_head_dim = {self.qk_rope_head_dim}, "
                f"got {sparse.index_head_dim!r}."
            )
        if self.moe_topk > self.num_experts_total:
            raise ConfigError(
                f"moe_topk must be at most n_routed_experts + zero_expert_num = {self.num_experts_total}, "
                f"got {self.moe_topk!r}."
            )

    @property
    def has_ngrams(self) -> bool:
        """True with an n-gram embedding, False with a plain word embedding."""
        return self.emb_neighbor_num > 1

    @property
    def architecture(self) -> str:
        """The name of the architecture in Meituan's file."""
        if self.sparse_attention is not None:
            return SPARSE_ARCHITECTURE
        return NGRAM_ARCHITECTURE if self.has_ngrams else FLASH_ARCHITECTURE

    @property
    def ngram_base(self) -> int:
        """m in the moduli m + 2i + 1 of the tables."""
        return int(self.ngram_vocab_size_ratio * self.vocab_size)

    @property
    def ngram_table_count(self) -> int:
        """Number of tables: `emb_split_num` for each of the orders 2..`emb_neighbor_num`."""
        return (self.emb_neighbor_num - 1) * self.emb_split_num

    @property
    def ngram_table_width(self) -> int:
        """Width of a row of each table; 0 without tables."""
        return self.hidden_size // self.ngram_table_count if self.has_ngrams else 0

    def ngram_table_rows(self, table: int) -> int:
        """Return the number of rows of n-gram table `table`, which is also the modulus of its ids."""
        if not 0 <= table < self.ngram_table_count:
            raise IndexError(f"n-gram table must be in [0, {self.ngram_table_count}), got {table!r}.")
        return self.ngram_base + 2 * table + 1

    @property
    def num_experts_total(self) -> int:
        """Width of the router: routed experts, followed by identity experts."""
        return self.n_routed_experts + self.zero_expert_num

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def q_lora_scale(self) -> float:
        """Factor on queries, rotary part included."""
        return math.sqrt(self.hidden_size / self.q_lora_rank) if self.mla_scale_q_lora else 1.0

    @property
    def kv_lora_scale(self) -> float:
        """Factor on the normalised key-value latent; the shared rotary key is not scaled."""
        return math.sqrt(self.hidden_size / self.kv_lora_rank) if self.mla_scale_kv_lora else 1.0

    @property
    def rope_amplitude(self) -> float:
        """Factor on cos and sin. 1 wherever mscale == mscale_all_dim, as in the released checkpoints."""
        yarn = self.rope_scaling
        if yarn is None:
            return 1.0
        if yarn.mscale and yarn.mscale_all_dim:
            return _yarn_mscale(yarn.factor, yarn.mscale) / _yarn_mscale(yarn.factor, yarn.mscale_all_dim)
        return _yarn_mscale(yarn.factor, 1.0)

    @property
    def softmax_scale(self) -> float:
        """Factor on attention logits: 1 / sqrt(qk_head_dim), times mscale squared under YaRN."""
        scale = 1.0 / math.sqrt(self.qk_head_dim)
        if self.rope_scaling is None:
            return scale
        return scale * _yarn_mscale(self.rope_scaling.factor, self.rope_scaling.mscale_all_dim) ** 2

    @classmethod
    def from_dict(cls, source: Mapping[str, Any]) -> Self:
        """Read Meituan's layout or a copy re-saved by transformers; other keys are ignored.

        Only the architecture of LongCat-Flash may leave the fields of the n-gram embedding out.
        Raises `ConfigError` if a required field is absent, a value is out of range, two spellings of a field
        contradict each other, or a switch has a value that this package does not support.
        """
        for key, supported in _SUPPORTED_VALUES.items():
            if source.get(key, supported) not in (supported, None):
                raise ConfigError(f"{key} must be {supported!r} or absent, got {source[key]!r}.")
        source = {**source, **_usual_spellings(source)}
        values = {f.name: source[f.name] for f in fields(cls) if source.get(f.name) is not None}
        if source.get("architectures") == [FLASH_ARCHITECTURE] and not WITHOUT_NGRAMS.keys() & values.keys():
            values.update(WITHOUT_NGRAMS)
        elif values.get("emb_neighbor_num") == 1:
            raise ConfigError(
                "emb_neighbor_num must be at least 2 (bigrams), got 1; a model without n-grams has "
                f"the architecture {FLASH_ARCHITECTURE} and none of {', '.join(WITHOUT_NGRAMS)}."
            )
        values.update(_rope_fields(source))
        values["sparse_attention"] = sparse = _parse_sparse_attention(source)
        values.setdefault("full_word_embedding", sparse is not None)
        if "num_layers" not in values and source.get("num_hidden_layers") is not None:
            values["num_layers"] = _halve(source["num_hidden_layers"])
        eos = values.get("eos_token_id")
        if isinstance(eos, list) and len(eos) == 1:
            values["eos_token_id"] = eos[0]
        absent = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
        if absent:
            raise ConfigError(f"{', '.join(absent)} must be given: no default is safe for these.")
        return cls(**values)

    @classmethod
    def from_json_file(cls, path: Path | str) -> Self:
        """Read a config.json. Raises `ConfigError`, naming the file, even if it is not a JSON object."""
        try:
            source = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(source, dict):
                raise ConfigError(f"must be a JSON object, got {type(source).__name__}.")
            return cls.from_dict(source)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return Meituan's layout, without `model_type` and `auto_map`, which would ask for remote code."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["rope_scaling"] = None if self.rope_scaling is None else self.rope_scaling.to_dict()
        del values["sparse_attention"]
        sparse = {}
        if self.sparse_attention is not None:
            values = {_OTHER_SPELLINGS.get(name, name): value for name, value in values.items()}
            sparse = self.sparse_attention.to_dict()
        elif not self.full_word_embedding:
            del values["full_word_embedding"]
        if not self.has_ngrams:
            values = {name: value for name, value in values.items() if name not in WITHOUT_NGRAMS}
        return {"architectures": [self.architecture], **_SUPPORTED_VALUES, **values, **sparse}


def _check_field_types(config: YarnScaling | SparseAttention | LongcatConfig) -> None:
    """Raise `ConfigError` for a number that is not positive (some may be 0) or not of its type."""
    for field in fields(config):
        value, expected = getattr(config, field.name), field.type
        if not isinstance(expected, type) or expected not in _ALLOWED_TYPES:
            continue
        if type(value) not in _ALLOWED_TYPES[expected]:
            raise ConfigError(f"{field.name} must be of type {expected.__name__}, got {value!r}.")
        if expected is not bool and not (value > 0 or (value == 0 and field.name in _MAY_BE_ZERO)):
            bound = "at least 0" if field.name in _MAY_BE_ZERO else "positive"
            raise ConfigError(f"{field.name} must be {bound}, got {value!r}.")


def _yarn_mscale(factor: float, mscale: float) -> float:
    """Return YaRN's attention temperature, 0.1 * mscale * ln(factor) + 1 (arXiv:2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _halve(num_hidden_layers: int) -> int:
    if num_hidden_layers % 2:
        raise ConfigError(
            f"num_hidden_layers counts two a layer and must be even, got {num_hidden_layers!r}."
        )
    return num_hidden_layers // 2


def _rope_fields(source: Mapping[str, Any]) -> dict[str, Any]:
    """Read `rope_theta` and `rope_scaling`, even if nested in `rope_parameters`, as transformers 5 does."""
    nested = [source[key] for key in ("rope_scaling", "rope_parameters") if source.get(key)]
    thetas = [theta for rope in (source, *nested) if (theta := rope.get("rope_theta")) is not None]
    scalings = [_parse_rope_scaling(rope) for rope in nested]
    for name, found in (("rope_theta", thetas), ("rope_scaling", scalings)):
        if any(value != found[0] for value in found):
            raise ConfigError(f"{name} is given twice with different values: {found!r}. Keep one.")
    return {
        "rope_scaling": scalings[0] if scalings else None,
        **({"rope_theta": thetas[0]} if thetas else {}),
    }


def _usual_spellings(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that `source` spells in another way, under their usual names."""
    found = {}
    for usual, other in _OTHER_SPELLINGS.items():
        if source.get(other) is None:
            continue
        if source.get(usual) not in (source[other], None):
            raise ConfigError(
                f"{usual} and {other} are the same field, got {source[usual]!r} and {source[other]!r}. "
                "Keep one."
            )
        found[usual] = source[other]
    return found


def _parse_sparse_attention(source: Mapping[str, Any]) -> SparseAttention | None:
    method = source.get("attention_method")
    if method in (None, "MLA"):
        if source.get("index_topk") is not None:
            # Other engines take that for sparse attention; as plain attention it would be another model.
            raise ConfigError(f"index_topk is given, so attention_method must be {_SPARSE_METHOD!r}.")
        return None
    if method != _SPARSE_METHOD:
        raise ConfigError(f"attention_method must be 'MLA', {_SPARSE_METHOD!r} or absent, got {method!r}.")
    for key, supported in _SUPPORTED_SPARSE_VALUES.items():
        if source.get(key) != supported:
            raise ConfigError(f"{key} must be {supported!r} for {_SPARSE_METHOD}, got {source.get(key)!r}.")
    values = {f.name: source[f.name] for f in fields(SparseAttention) if source.get(f.name) is not None}
    absent = [f.name for f in fields(SparseAttention) if f.default is MISSING and f.name not in values]
    if absent:
        raise ConfigError(f"attention_method {_SPARSE_METHOD!r} needs {', '.join(absent)}.")
    return SparseAttention(**values)


def _parse_rope_scaling(rope: Mapping[str, Any]) -> YarnScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    # SGLang computes the same for both names.
    if kind not in ("yarn", "deepseek_yarn"):
        raise ConfigError(f"the rope type must be 'default', 'yarn' or 'deepseek_yarn', got {kind!r}.")
    values = {f.name: rope[f.name] for f in fields(YarnScaling) if rope.get(f.name) is not None}
    absent = [f.name for f in fields(YarnScaling) if f.default is MISSING and f.name not in values]
    if absent:
        raise ConfigError(f"rope_scaling of type 'yarn' lacks {', '.join(absent)}.")
    return YarnScaling(**values)
