"""LongCat's double layer under SGLang: the experts beside dense 1, attention 2 and dense 2.

The experts' result is needed only at the end of the layer (ScMoE), so on a GPU they may run on a second
stream beside the rest. If dense 2 and the experts are summed over the same ranks, their partial sums are
added first and one all-reduce completes both; the next layer's norm may fuse it, as after any dense layer.
That makes four collectives per layer instead of five. The second stream never communicates.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.dp_attention import is_dp_attention_enabled
from sglang.srt.layers.layer_boundary.contracts import BatchVariant
from sglang.srt.layers.layer_boundary.layout import SumGroup
from sglang.srt.layers.moe.utils import post_experts_output_is_complete, post_experts_reduction_group
from sglang.srt.models.longcat_flash import LongcatFlashDecoderLayer as UpstreamLayer
from sglang.srt.runtime_context import get_exec, get_parallel
from torch import Tensor

from serval_sglang.layers.side_stream import run_beside

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

    from serval_sglang.layers.sparse_indexer import SparseIndexer


class LongcatFlashDecoderLayer(UpstreamLayer):  # type: ignore[misc]  # sglang is untyped
    """The modules and boundaries that upstream builds, run in a different order."""

    is_sparse = False

    def __init__(self, *arguments: Any, **keyword_arguments: Any) -> None:
        super().__init__(*arguments, **keyword_arguments)
        self.overlap_experts(None, up_to_tokens=0)

    def add_indexer(self, indexer: SparseIndexer) -> None:
        """Have both attentions attend only to the tokens that `indexer` chooses."""
        self.self_attn[0].indexer = indexer
        self.is_sparse = True

    @cached_property
    def one_sum(self) -> bool:
        """True if one collective completes the partial sums of experts and dense 2. Computed late, because
        upstream binds the plans only when all layers are built."""
        return _owe_one_sum(self.moe_boundary.plan, self.second_ffn_boundary.plan)

    def overlap_experts(self, stream: torch.cuda.Stream | None, *, up_to_tokens: int) -> None:
        """Compute the experts of batches of at most `up_to_tokens` on `stream`; None is the main stream."""
        self.experts_stream = stream
        self.overlap_tokens = up_to_tokens

    def forward(
        self,
        positions: Tensor,
        hidden_states: Any,
        forward_batch: ForwardBatch,
        zero_allocator: Any,
        prev_topk_indices: Tensor | None,
    ) -> tuple[Any, Tensor | None]:
        """Map hidden states to hidden states in the form that layers exchange: a tensor [T, H], or SGLang's
        handle for one whose sum over ranks is still incomplete."""
        batch = {
            "positions": positions,
            "forward_batch": forward_batch,
            "zero_allocator": zero_allocator,
        }
        hidden_states = self.attn_boundary.prepare(hidden_states, forward_batch)
        hidden_states, topk = self._attend(0, hidden_states, prev_topk_indices, **batch)
        hidden_states = self.attn_boundary.finish(hidden_states, forward_batch)
        # Both branches read `fork`; this frame keeps it alive until they are done.
        fork = self.moe_boundary.prepare(hidden_states, forward_batch)
        overlaps = fork.shape[0] <= self.overlap_tokens
        routed, (dense, topk) = run_beside(
            self.experts_stream if overlaps else None,
            lambda: self.mlp(fork),
            lambda: self._dense_branch(fork, topk, **batch),
        )
        return self._joined(routed, dense, forward_batch), topk

    def _dense_branch(
        self,
        fork: Tensor,
        topk: Tensor | None,
        *,
        forward_batch: ForwardBatch,
        **batch: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Run dense 1, attention 2 and dense 2; the sum over ranks is still incomplete."""
        hidden_states = self.first_ffn_boundary.branch_input(self.moe_boundary, fork, forward_batch)
        hidden_states = self.first_ffn_boundary.finish(self.mlps[0](hidden_states), forward_batch)
        hidden_states = self.second_attn_boundary.prepare(hidden_states, forward_batch)
        hidden_states, topk = self._attend(1, hidden_states, topk, forward_batch=forward_batch, **batch)
        hidden_states = self.second_attn_boundary.finish(hidden_states, forward_batch)
        hidden_states = self.second_ffn_boundary.prepare(hidden_states, forward_batch)
        return self.mlps[1](hidden_states), topk

    def _attend(
        self,
        index: int,
        hidden_states: Tensor,
        topk: Tensor | None,
        **batch: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if hidden_states.shape[0] == 0:
            return hidden_states, topk
        if self.is_sparse and index == 0:
            attention = self.self_attn[0]
            attention.indexer.choose(attention, hidden_states, batch["positions"], batch["forward_batch"])
        output = self.self_attn[index](hidden_states=hidden_states, prev_topk_indices=topk, **batch)
        return output if isinstance(output, tuple) else (output, topk)

    def _joined(self, routed: Tensor, dense: Tensor, forward_batch: ForwardBatch) -> Any:
        if self.one_sum:
            return self.second_ffn_boundary.finish(dense.add_(routed), forward_batch)
        dense = self.second_ffn_boundary.finish(dense, forward_batch)
        routed = self.moe_boundary.branch_output(routed, forward_batch)
        return self.moe_boundary.merge_branch(routed, dense, self.second_ffn_boundary, forward_batch)


def _owe_one_sum(experts: Any, dense: Any) -> bool:
    """True if one full-precision all-reduce over the tensor-parallel ranks completes the outputs of both
    stages. False under attention DP, where a sum also moves rows and upstream's order is kept."""
    if is_dp_attention_enabled() or set(experts.paths) != {BatchVariant.ORDINARY}:
        return False
    routed, other = (plan.paths[BatchVariant.ORDINARY].output for plan in (experts, dense))
    if routed.layout != other.layout:
        return False
    parallel = get_parallel()
    return bool(
        parallel.tp_size == 1
        or (
            routed.group is SumGroup.MOE_OUTPUT
            and other.group is SumGroup.TP
            and post_experts_reduction_group().ranks == parallel.tp_group.ranks
            and not post_experts_output_is_complete(is_tp_path=True)
            and not get_exec().comm.enable_quant_communications
        )
    )
