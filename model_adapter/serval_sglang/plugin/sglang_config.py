"""LongCat's config.json as SGLang reads it, checked and normalised first.

SGLang's own class fills absent fields with the dimensions of another model, reads `num_hidden_layers`
(which counts attentions, two per layer, in copies re-saved by transformers) as the number of layers, and has
no model for a file with `model_type: longcat_flash_ngram`.
"""

from copy import deepcopy
from dataclasses import fields
from typing import Any

from sglang.srt.configs.longcat_flash import LongcatFlashConfig as UpstreamConfig

from serval_sglang.config import LongcatConfig, SparseAttention, YarnScaling

# Re-saved copies spell these differently; the checked configuration already covers them.
_RESAVED = ("model_type", "num_hidden_layers", "rope_parameters", "auto_map")

_SPARSE = ("attention_method", *(field.name for field in fields(SparseAttention)))


class LongcatFlashConfig(UpstreamConfig):  # type: ignore[misc]  # sglang is untyped
    """Registered for the model type `longcat_flash`. transformers' mappings depend on the class name."""

    # transformers turns a configuration class without a constructor of its own into a dataclass.
    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read Meituan's config.json or a re-saved copy.

        Raises `ConfigError` if a field is absent or has a value that this package does not support.
        """
        config = LongcatConfig.from_dict(config_dict)
        checked = config.to_dict()
        # With `index_topk` SGLang would build its own sparse attention, which is for GPUs.
        hidden = (*_RESAVED, *_SPARSE)
        source = {key: value for key, value in config_dict.items() if key not in hidden}
        # float32 logits from the bfloat16 head: rounding to bfloat16 costs up to 0.06 at a logit of 16. A
        # copy, because SGLang's attention writes to rope_scaling.
        own = {"serval_config": deepcopy(checked), "enable_lm_head_output_fp32": True}
        checked = {key: value for key, value in checked.items() if key not in hidden}
        checked["rope_scaling"] = (config.rope_scaling or _plain_rope(config)).to_dict()
        return super().from_dict({**source, **checked, **own}, **kwargs)


def _plain_rope(config: LongcatConfig) -> YarnScaling:
    """Return YaRN that changes nothing. Without scaling SGLang's LongCat layers fail on any device
    (transformers 5 keeps None as `rope_parameters`, in which they look for a key), its rope on a CPU too."""
    return YarnScaling(factor=1.0, original_max_position_embeddings=config.max_position_embeddings)
