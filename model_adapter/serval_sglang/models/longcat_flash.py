"""LongCat-Flash, with n-grams or without, for SGLang: upstream's attention and dense MLPs with our embedding,
MoE and loading.

The class keeps upstream's name, which SGLang's configuration code looks for in a dozen places. The plugin
replaces the embedding and the MoE in upstream's module before this class builds them.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import sglang.srt.models.longcat_flash as upstream
from sglang.srt.runtime_context import get_exec, get_parallel, get_server_args, get_stream
from sglang.srt.utils import is_cpu, is_cuda
from torch import Tensor

from serval_sglang.checkpoint.layout import TABLE_DTYPE_KEY
from serval_sglang.config import LongcatConfig
from serval_sglang.drafts.refusals import reason_against_drafts
from serval_sglang.layers.decoder_layer import LongcatFlashDecoderLayer
from serval_sglang.layers.moe import LongcatFlashMoE
from serval_sglang.layers.ngram_embedding import NgramEmbedding
from serval_sglang.layers.ngram_tables import TableStorage, code_dtype
from serval_sglang.layers.sparse_indexer import SparseIndexer, reason_against_sparse
from serval_sglang.metrics.build import report_build
from serval_sglang.metrics.experts import report_experts
from serval_sglang.settings import model_settings
from serval_sglang.siblings import ARCHITECTURES
from serval_sglang.weights.ledger import TensorLedger
from serval_sglang.weights.unpacking import (
    ATTENTION,
    is_attention,
    is_layer,
    packing_of,
    require_loadable_attention,
    unpacked,
)

# In Meituan's model the norms of the two latents keep the default of their class and ignore rms_norm_eps
# (transformers' modeling_longcat_flash.py, class LongcatFlashMLA).
LATENT_NORM_EPS = 1e-6


class LongcatFlashForCausalLM(upstream.LongcatFlashForCausalLM):  # type: ignore[misc]  # sglang is untyped
    """The model that SGLang's schedulers load.

    Raises `ValueError` if a flag or setting requires something that the model does not support, and
    `RuntimeError` if the plugin's replacements were not in place when the layers were built.
    """

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        _refuse_unsupported_features()
        settings = model_settings()
        tables = TableStorage(
            place=settings.ngram_tables, code_dtype=code_dtype(getattr(config, TABLE_DTYPE_KEY, None))
        )
        packing = packing_of(quant_config)
        if packing is not None:
            config.disable_quant_module = [*getattr(config, "disable_quant_module", []), ATTENTION]
        # SGLang supports packed layers only on GPUs and on CPUs with AMX: elsewhere all are unpacked.
        unpacks_all = packing is not None and is_cpu()
        super().__init__(config, None if unpacks_all else quant_config, prefix)
        self.dimensions = LongcatConfig.from_dict(config.serval_config)
        self._add_indexers(config)
        self._packing, self._unpacks = packing, is_layer if unpacks_all else is_attention
        self._require_own_layers()
        require_loadable_attention(self.model.layers[0].self_attn[0].kv_b_proj, quant_config)
        if self.dimensions.has_ngrams:
            self.model.embed_tokens.allocate_tables(tables)
            if self.dimensions.full_word_embedding:
                self.model.embed_tokens.word_scale = 1.0
        report_build()
        report_experts([layer.mlp for layer in self.model.layers])
        self._overlap_experts(settings.moe_overlap_tokens)
        self._has_coded_tables = tables.code_dtype is not None
        self._is_loaded = False
        # Upstream scales the latent norms in place after every load, so a second load would scale them twice.
        # Here the tensors are scaled as they arrive, and upstream's own step is switched off.
        self.config = copy.copy(config)
        self.config.mla_scale_q_lora = self.config.mla_scale_kv_lora = False
        for layer in self.model.layers:
            for attention in layer.self_attn:
                attention.q_a_layernorm.variance_epsilon = LATENT_NORM_EPS
                attention.kv_a_layernorm.variance_epsilon = LATENT_NORM_EPS

    def _add_indexers(self, config: Any) -> None:
        sparse = self.dimensions.sparse_attention
        if sparse is None:
            return
        refused = ARCHITECTURES[self.dimensions.architecture].refused_on_gpu
        if not is_cpu() and refused is not None:
            raise ValueError(f"{refused}.")
        reason = reason_against_sparse(get_server_args())
        if reason is not None:
            raise ValueError(f"{reason}. Leave it out.")
        for layer in self.model.layers:
            layer.add_indexer(SparseIndexer(self.dimensions, sparse, rope_scaling=config.rope_scaling))

    def _overlap_experts(self, tokens: int) -> None:
        if tokens == 0 or not is_cuda():
            return
        # Attention uses another stream of its own: on that one it would wait for the experts.
        stream = get_stream("serval_experts")
        for layer in self.model.layers:
            layer.overlap_experts(stream, up_to_tokens=tokens)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load a checkpoint; calls after the first may load any part of one.

        Raises `CheckpointMismatch` if a tensor is unknown, of another shape or, in the first call, missing.
        """
        ledger = TensorLedger(
            self.dimensions,
            quantised=self._packing is not None or self.quant_config is not None,
            coded_tables=self._has_coded_tables,
            block=fp8_block(self.quant_config),
        )
        received = ledger.received(weights)
        if self._packing is not None:
            received = unpacked(received, self._packing, of=self._unpacks)
        super().load_weights(scale_latent_norms(received, self.dimensions))
        if not self._is_loaded:
            ledger.require_complete()
        ledger.require_known()
        self._is_loaded = True

    def _require_own_layers(self) -> None:
        own_layers = all(
            isinstance(layer, LongcatFlashDecoderLayer) and isinstance(layer.mlp, LongcatFlashMoE)
            for layer in self.model.layers
        )
        own_embedding = isinstance(self.model.embed_tokens, NgramEmbedding)
        if not own_layers or own_embedding != self.dimensions.has_ngrams:
            raise RuntimeError(
                "SGLang built its own layers or n-gram embedding instead of Serval's: the plugin's "
                "replacements are not in effect. Start with `python -m serval_sglang.launch`; see the hooks' "
                "messages."
            )


def scale_latent_norms(
    weights: Iterable[tuple[str, Tensor]], dimensions: LongcatConfig
) -> Iterator[tuple[str, Tensor]]:
    """Multiply the MLA scale into the norms' weights, so that it costs nothing at run time:
    norm(x) · g · scale = norm(x) · (g · scale)."""
    scales = {"q_a_layernorm": dimensions.q_lora_scale, "kv_a_layernorm": dimensions.kv_lora_scale}
    for name, tensor in weights:
        scale = scales.get(name.split(".")[-2])
        # float32, so that the copy rounds once to the parameter's dtype, which may differ from this one.
        yield name, tensor if scale is None else tensor.float() * scale


def fp8_block(quant_config: Any) -> tuple[int, int] | None:
    """Return the (output, input) size of the blocks of block-wise FP8; None for any other format."""
    if quant_config is None or quant_config.get_name() != "fp8":
        return None
    block: list[int] | None = quant_config.weight_block_size
    return None if block is None else (block[0], block[1])


def _refuse_unsupported_features() -> None:
    reason = reason_against_drafts(get_server_args())
    if reason is not None:
        raise ValueError(f"{reason}. Leave it out.")
    if get_parallel().pp_size > 1:
        raise ValueError(f"--pp-size must be 1 for this model, got {get_parallel().pp_size!r}.")
    if get_exec().features.enable_return_routed_experts or get_exec().moe.expert_distribution_recorder_mode:
        raise ValueError(
            "--enable-return-routed-experts and --expert-distribution-recorder-mode are not supported: "
            "this model's router does not report to them. Leave them out."
        )


EntryClass = LongcatFlashForCausalLM
