"""Assignment of a checkpoint's tensors to parts of the model."""

import re
from enum import StrEnum

from serval_sglang.checkpoint.layout import ALIASES, usual_name


class Part(StrEnum):
    """Parts of the model, in the order in which tables show them."""

    NGRAM_TABLES = "n-gram tables"
    NGRAM_PROJECTIONS = "n-gram projections"
    WORD_EMBEDDING = "word embedding"
    ATTENTION = "attention"
    INDEXER = "indexer"
    DENSE_MLPS = "dense MLPs"
    EXPERTS = "experts"
    ROUTER = "router"
    NORMS = "norms"
    HEAD = "output head"
    MTP = "MTP"
    UNKNOWN = "unknown"


# The first match counts: latent norms are norms, although they are inside the attention.
_PATTERNS = (
    (Part.MTP, re.compile(r"model\.mtp\.")),
    (Part.WORD_EMBEDDING, re.compile(r"model\.embed_tokens\.|" + "|".join(map(re.escape, ALIASES)))),
    (Part.NGRAM_TABLES, re.compile(r"model\.ngram_embeddings\.embedders\.")),
    (Part.NGRAM_PROJECTIONS, re.compile(r"model\.ngram_embeddings\.post_projs\.")),
    (Part.HEAD, re.compile(r"lm_head\.")),
    (Part.INDEXER, re.compile(r"model\.layers\.\d+\.self_attn\.0\.indexer\.")),
    (Part.NORMS, re.compile(r"model\.norm\.|model\.layers\.\d+\.(\w+\.\d+\.)*\w*layernorm\.")),
    (Part.ATTENTION, re.compile(r"model\.layers\.\d+\.self_attn\.")),
    (Part.DENSE_MLPS, re.compile(r"model\.layers\.\d+\.mlps\.")),
    (Part.EXPERTS, re.compile(r"model\.layers\.\d+\.mlp\.experts\.")),
    (Part.ROUTER, re.compile(r"model\.layers\.\d+\.mlp\.router\.")),
)


def part_of(tensor_name: str) -> Part:
    """Return the part to which a tensor of this name belongs, in any dtype or quantised form."""
    name = usual_name(tensor_name)
    return next((part for part, pattern in _PATTERNS if pattern.match(name)), Part.UNKNOWN)
