"""Registration with Transformers' `Auto` classes, and with its conversion of experts' weights."""

import functools
from collections.abc import Callable
from typing import Any, Final

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from serval_sglang.config import NGRAM_ARCHITECTURE
from serval_sglang.transformers.configuration import MODEL_TYPE, LongcatFlashNgramConfig
from serval_sglang.transformers.modeling import LongcatFlashNgramForCausalLM, LongcatFlashNgramModel

_MARK: Final = "_serval_reads_longcat"


def register() -> None:
    """Register configuration, models and tokenizer. Does nothing the second time."""
    AutoConfig.register(MODEL_TYPE, LongcatFlashNgramConfig, exist_ok=True)
    AutoModel.register(LongcatFlashNgramConfig, LongcatFlashNgramModel, exist_ok=True)
    AutoModelForCausalLM.register(LongcatFlashNgramConfig, LongcatFlashNgramForCausalLM, exist_ok=True)
    AutoTokenizer.register(
        LongcatFlashNgramConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True
    )
    # Checkpoints have a tensor for each expert, and Transformers' model one for all.
    register_checkpoint_conversion_mapping(
        MODEL_TYPE, get_checkpoint_conversion_mapping("longcat_flash"), overwrite=True
    )
    if not hasattr(PreTrainedConfig.get_config_dict, _MARK):
        PreTrainedConfig.get_config_dict = _naming_the_model_type(PreTrainedConfig.get_config_dict.__func__)


def _naming_the_model_type(read: Callable[..., Any]) -> Any:
    """Wrap `PreTrainedConfig.get_config_dict`, which every `Auto` class reads a config.json with.

    Meituan's file has no `model_type`, from which `AutoConfig` takes the class, and an `auto_map` with the
    names of code to be run instead.
    """

    @functools.wraps(read)
    def get_config_dict(cls: type, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        found, unused = read(cls, *args, **kwargs)
        if NGRAM_ARCHITECTURE in (found.get("architectures") or ()):
            found = {key: value for key, value in found.items() if key != "auto_map"}
            found["model_type"] = MODEL_TYPE
        return found, unused

    setattr(get_config_dict, _MARK, True)
    return classmethod(get_config_dict)
