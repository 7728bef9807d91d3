"""LongCat-Flash-Lite in plain PyTorch: the definition against which every kernel and shard is tested.

It is written to be read, and for training at toy sizes. It uses neither SGLang nor transformers.
"""

from serval_sglang.reference.model import ReferenceModel, ReferenceOutput
from serval_sglang.reference.moe import Routing
from serval_sglang.reference.mtp import MtpLayer
from serval_sglang.reference.ngram import ngram_ids
from serval_sglang.reference.speculation import SpeculativeRun, decode_speculatively, mtp_drafter

__all__ = [
    "MtpLayer",
    "ReferenceModel",
    "ReferenceOutput",
    "Routing",
    "SpeculativeRun",
    "decode_speculatively",
    "mtp_drafter",
    "ngram_ids",
]
