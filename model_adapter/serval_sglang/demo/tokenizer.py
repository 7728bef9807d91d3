"""Byte-level BPE of the demo model, with LongCat's control tokens.

Two choices help a model of a few million parameters that must copy names from its context:

* a word has the same tokens everywhere: a space is joined to the following word only for a closed list of
  common words, and digits and Han characters are tokens of their own;
* the fixed lines of a tool declaration, which would take 100 tokens, are one token each.
"""

import json
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from serval_sglang.demo.corpus import conversations
from serval_sglang.demo.rendering import render

VOCAB_SIZE = 1750

SPECIAL_TOKENS = (
    "<longcat_unk>",
    "<longcat_s>",
    "</longcat_s>",
    "<longcat_pad>",
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

_FIXED_LINES = (
    "\n# Tools\nYou have access to the following tools:\n\n",
    "## Tool namespace: function\n\n### Tool name: ",
    "**Note**: For each function call, output the function name and arguments "
    "within the following XML format:\n",
    "### Tool name: ",
    "\nDescription: ",
    "\n\nInputSchema: ",
    "{function-name}\n",
    "{arg-key-1}",
    "{arg-key-2}",
    "{arg-value-1}",
    "{arg-value-2}",
    "...\n",
)
_SCHEMA_FRAGMENTS = (
    '{"type": "object", "properties": {"',
    '": {"type": "string"}',
    '": {"type": "integer"}',
    '": {"type": "string", "description": "',
    '": {"type": "integer", "description": "',
    '}, "required": ["',
    '}, "required": []',
    '"], "additionalProperties": false}',
    '"]}\n\n',
    '"]}',
    '": "',
    '", "',
    '": ',
    ', "',
    '{"',
    '"}',
)
_COMMON_WORDS = [
    "a", "about", "all", "am", "an", "and", "any", "are", "as", "at", "be", "by", "can", "check",
    "city", "could", "days", "degrees", "do", "docs", "does", "find", "following", "for", "forecast",
    "get", "give", "given", "have", "how", "i", "in", "is", "it", "last", "local", "location", "look",
    "me", "my", "name", "next", "no", "not", "number", "of", "on", "or", "over", "page", "pages",
    "people", "please", "results", "search", "so", "tell", "than", "that", "the", "this", "time", "to",
    "tool", "tools", "use", "want", "was", "weather", "what", "when", "which", "will", "with", "you",
    "your",
]  # fmt: skip


def _split_pattern() -> str:
    fixed = "|".join(re.escape(text) for text in (*_FIXED_LINES, *_SCHEMA_FRAGMENTS))
    words = "|".join(sorted(_COMMON_WORDS, key=len, reverse=True))
    letters = r"(?:(?!\p{Han})[\p{L}\p{M}])+"
    joined = rf" (?:{words})(?![\p{{L}}\p{{N}}_])"
    return rf"{fixed}|{joined}|\p{{N}}|\p{{Han}}|{letters}|\s|[^\s\p{{L}}\p{{M}}\p{{N}}]"


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Fit a tokenizer of `VOCAB_SIZE` entries to `texts`; the special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_split_pattern()), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(  # type: ignore[no-untyped-call]
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def demo_tokenizer(seed: int, *, count: int = 8_000) -> Tokenizer:
    """Fit the demo model's tokenizer to the first `count` conversations of `seed`."""
    return train_tokenizer(render(item) for item in islice(conversations(seed), count))


def save_tokenizer(tokenizer: Tokenizer, directory: Path, *, context_length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` in the form that transformers reads."""
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "unk_token": SPECIAL_TOKENS[0],
        "bos_token": SPECIAL_TOKENS[1],
        "eos_token": SPECIAL_TOKENS[2],
        "pad_token": SPECIAL_TOKENS[3],
        "additional_special_tokens": list(SPECIAL_TOKENS[4:]),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
    }
    text = json.dumps(settings, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
