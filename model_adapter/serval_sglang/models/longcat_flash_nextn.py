"""The multi-token-prediction layer of LongCat-Flash-Lite as SGLang's draft model.

Its input is the target's state after the final norm and the embedding, from a table of the layer's own, of
the token that follows; the target's output head turns its output into drafts. No n-gram table is involved.
SGLang's own class takes the target's word embedding instead, and its attention projects the latents that the
target's last attention has left behind. The class keeps upstream's name, to which SGLang's configuration code
changes that of the target.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import sglang.srt.models.longcat_flash_nextn as upstream
from torch import Tensor, nn

from serval_sglang.checkpoint.layout import MTP_PREFIX
from serval_sglang.config import LongcatConfig
from serval_sglang.models.longcat_flash import LATENT_NORM_EPS, fp8_block, scale_latent_norms
from serval_sglang.weights.mtp import mtp_tensors
from serval_sglang.weights.unpacking import packing_of

_EMBEDDING = f"{MTP_PREFIX}embed_tokens.weight"


class LongcatFlashForCausalLMNextN(upstream.LongcatFlashForCausalLMNextN):  # type: ignore[misc]  # sglang is untyped
    """The draft model. Its linear layers are held in the model's dtype, whatever the checkpoint's format."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        super().__init__(config, None)
        # The target's is shared. Until then no memory is taken for one, 0.8 GB that the KV cache would lack.
        self.lm_head.weight = nn.Parameter(self.lm_head.weight.new_empty(0), requires_grad=False)
        self._packing, self._block = packing_of(quant_config), fp8_block(quant_config)
        self.dimensions = LongcatConfig.from_dict(config.serval_config)
        # See LongcatFlashForCausalLM: upstream would scale the latent norms again after every load.
        self.config = copy.copy(config)
        self.config.mla_scale_q_lora = self.config.mla_scale_kv_lora = False
        decoder = self.model.decoder
        attention = decoder.self_attn
        attention.q_a_layernorm.variance_epsilon = LATENT_NORM_EPS
        attention.kv_a_layernorm.variance_epsilon = LATENT_NORM_EPS
        # Upstream declares its attention without this: it would find the latents of another one.
        decoder.attn_boundary.plan.qkv_latent_func = attention.prepare_qkv_latent

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load the layer from a checkpoint.

        Raises `CheckpointMismatch` if it lacks the layer or one of its tensors, or one has another shape.
        """
        tensors = mtp_tensors(weights, self.dimensions, packing=self._packing, block=self._block)
        super().load_weights(scale_latent_norms(self._load_embedding(tensors), self.dimensions))

    def _load_embedding(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Load the embedding, which upstream passes over, and yield the other tensors."""
        for name, tensor in weights:
            if name == _EMBEDDING:
                parameter = self.model.embed_tokens.weight
                parameter.weight_loader(parameter, tensor)
            else:
                yield name, tensor

    def set_embed_and_head(self, embed: Tensor | None, head: Tensor) -> None:
        """Share the target's output head, and keep the embedding, which upstream replaces too."""
        self.lm_head.weight = head


EntryClass = LongcatFlashForCausalLMNextN
