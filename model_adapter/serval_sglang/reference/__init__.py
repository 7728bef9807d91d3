"""LongCat-Flash-Lite in plain PyTorch: the definition that every kernel and every shard is compared with.

Written to be read, and to be trained at toy sizes. Nothing of SGLang or transformers is used.
"""

from serval_sglang.reference.model import ReferenceModel, ReferenceOutput
from serval_sglang.reference.moe import Routing
from serval_sglang.reference.ngram import ngram_ids

__all__ = ["ReferenceModel", "ReferenceOutput", "Routing", "ngram_ids"]
