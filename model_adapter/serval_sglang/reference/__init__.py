"""LongCat-Flash-Lite in plain PyTorch: the definition against which every kernel and shard is tested.

It is written to be read, and for training at toy sizes. It uses neither SGLang nor transformers.
"""

from serval_sglang.reference.model import ReferenceModel, ReferenceOutput
from serval_sglang.reference.moe import Routing
from serval_sglang.reference.ngram import ngram_ids

__all__ = ["ReferenceModel", "ReferenceOutput", "Routing", "ngram_ids"]
