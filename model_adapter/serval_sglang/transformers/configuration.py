"""The configuration as Transformers keeps it, checked by Serval's own."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import LongcatFlashConfig

from serval_sglang.checkpoint.layout import TABLE_DTYPE_KEY
from serval_sglang.config import ConfigError, LongcatConfig

MODEL_TYPE = "longcat_flash_ngram"


@strict
class LongcatFlashNgramConfig(LongcatFlashConfig):  # type: ignore[misc]  # transformers is untyped
    """config.json of LongCat-Flash-Lite: LongCat-Flash's fields and those of the n-gram embedding.

    Without arguments it has the dimensions of the released model. Raises `ConfigError` for a value that the
    model classes do not compute, for instance `norm_topk_prob` true.
    """

    model_type: ClassVar[str] = MODEL_TYPE

    hidden_size: int = 3072
    num_layers: int = 14
    num_attention_heads: int = 32
    ffn_hidden_size: int = 6144
    expert_ffn_hidden_size: int = 1024
    n_routed_experts: int = 256
    zero_expert_num: int = 128
    max_position_embeddings: int = 327680
    ngram_vocab_size_ratio: float | int = 78
    emb_neighbor_num: int = 4
    emb_split_num: int = 4

    def __post_init__(self, **fields: Any) -> None:
        # The rotary embedding is made for `head_dim`, which Meituan's file does not have.
        self.head_dim = self.qk_rope_head_dim
        super().__post_init__(**fields)
        if getattr(self, TABLE_DTYPE_KEY, None) is not None:
            raise ConfigError(
                f"{TABLE_DTYPE_KEY} is set: eight-bit n-gram tables are for Serval's engine only. Load the "
                "checkpoint that they were made from."
            )
        self.checked()

    def checked(self) -> LongcatConfig:
        """Return Serval's configuration of the same model. Raises `ConfigError`."""
        config = LongcatConfig.from_dict(self.to_dict())
        if not (config.mla_scale_q_lora and config.mla_scale_kv_lora):
            raise ConfigError("mla_scale_q_lora and mla_scale_kv_lora must be true for Transformers.")
        if config.sparse_attention is not None or config.full_word_embedding:
            raise ConfigError("attention_method 'LSA' and full_word_embedding are for Serval's engine only.")
        return config
