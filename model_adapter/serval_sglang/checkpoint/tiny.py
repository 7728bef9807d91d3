"""A complete tiny checkpoint on which an engine can start: random weights, a tokenizer, no download."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from serval_sglang.checkpoint.io import save_checkpoint
from serval_sglang.checkpoint.quantization import Layout
from serval_sglang.checkpoint.random import random_state_dict, tiny_config
from serval_sglang.checkpoint.right_drafts import with_right_drafts
from serval_sglang.config import ConfigError, LongcatConfig
from serval_sglang.options import DEMO_MODEL

SPECIAL_TOKENS = ("<longcat_unk>", "<longcat_s>", "</longcat_s>", "<longcat_pad>")

# Markers of LongCat's chat template: single tokens, not flagged special, so that decoding keeps them.
CHAT_MARKERS = (
    "<longcat_system>",
    "<longcat_user>",
    "<longcat_assistant>",
    "<longcat_tool_declare>",
    "</longcat_tool_declare>",
    "<longcat_tool_call>",
    "</longcat_tool_call>",
    "<longcat_arg_key>",
    "</longcat_arg_key>",
    "<longcat_arg_value>",
    "</longcat_arg_value>",
    "<longcat_tool_response>",
    "</longcat_tool_response>",
    "<longcat_think>",
    "</longcat_think>",
    "<longcat_files>",
    "</longcat_files>",
)


def write_tiny_checkpoint(
    directory: Path | str,
    *,
    seed: int,
    dtype: torch.dtype,
    fp8: bool = False,
    sparse: bool = False,
    packed: Layout | None = None,
    mtp: bool = False,
    right_drafts: bool = False,
    **overrides: Any,
) -> LongcatConfig:
    """Write config.json, weights, tokenizer and chat template; return the config.

    The config is `tiny_config(fp8=fp8, sparse=sparse, **overrides)`, the template the demo model's.

    `dtype`, `fp8` and `packed` are as for `save_checkpoint`; `mtp` adds a random MTP layer, which FP8 and
    packing leave as it is; with `right_drafts` the layer is added and often right. Raises `ConfigError` if an
    override makes the model invalid or the vocabulary too small for the tokenizer, and `CheckpointError` if
    the directory already holds weights.
    """
    config = tiny_config(fp8=fp8, sparse=sparse, **overrides)
    tokenizer = _byte_level_tokenizer(config.vocab_size)
    weights = random_state_dict(config, seed=seed, mtp=mtp or right_drafts)
    if right_drafts:
        weights = with_right_drafts(weights, config, seed=seed)
    save_checkpoint(weights, config, directory, dtype=dtype, fp8=fp8, packed=packed)
    directory = Path(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(_tokenizer_config(config), indent=2) + "\n", encoding="utf-8"
    )
    shutil.copyfile(DEMO_MODEL / "chat_template.jinja", directory / "chat_template.jinja")
    return config


def _byte_level_tokenizer(vocab_size: int) -> Tokenizer:
    """Build a tokenizer with special tokens from id 0, then 256 bytes, chat markers, and reserved entries.

    Every id of the model's vocabulary can be decoded, because random weights may emit any of them.
    """
    byte_symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*SPECIAL_TOKENS, *byte_symbols, *CHAT_MARKERS]
    if vocab_size < len(entries):
        raise ConfigError(
            f"vocab_size must be at least {len(entries)} for the tokenizer, got {vocab_size!r}."
        )
    entries += [f"<longcat_reserved_{number}>" for number in range(vocab_size - len(entries))]
    tokenizer = Tokenizer(models.BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in CHAT_MARKERS])
    return tokenizer


def _tokenizer_config(config: LongcatConfig) -> dict[str, Any]:
    unknown, begin, end, padding = SPECIAL_TOKENS
    return {
        # Needed because Meituan's config.json has no model_type from which the class could be derived.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_position_embeddings,
        "unk_token": unknown,
        "bos_token": begin,
        "eos_token": end,
        "pad_token": padding,
        "clean_up_tokenization_spaces": False,
    }
