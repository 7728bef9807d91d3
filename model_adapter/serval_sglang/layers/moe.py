"""LongCat's mixture of experts under SGLang: routed experts in the grouped GEMM, identity experts beside it.

It differs from upstream in the identity experts: their slots carry the id that MoE runners drop instead of
occupying expert 0, their output is scaled like that of every other expert, and it is added exactly once at
any parallel size.
"""

from typing import Any

import torch
from sglang.srt.layers.moe.topk import StandardTopKOutput
from sglang.srt.layers.moe.utils import get_moe_a2a_backend, post_experts_output_is_complete
from sglang.srt.models.longcat_flash import LongcatFlashMoE as UpstreamMoE
from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils import get_device_capability, is_cuda
from torch import Tensor

from serval_kernels.combine_identity import combine_identity
from serval_kernels.route_topk import route_topk

# Runners that skip id -1 (see sglang/srt/layers/moe/moe_runner, and the kernel of fused_marlin_moe for packed
# experts). The CPU has its own in cpu_compat.
_RUNNERS = ("triton", "deep_gemm", "marlin")

# All-to-all backends that do not send slots with id -1; DeepEP itself uses this id for "no expert".
_EXCHANGES = ("none", "deepep")

# The only one of these runners that takes what DeepEP delivers, in each of its modes.
_DEEPEP_RUNNER = "deep_gemm"

_FP8_CAPABILITY = (8, 9)


class LongcatFlashMoE(UpstreamMoE):  # type: ignore[misc]  # sglang is untyped
    """Router and experts as upstream builds them, with a different forward pass.

    Raises `ValueError` for a MoE runner or all-to-all backend that is not known to drop identity slots, for
    experts that cannot be computed behind DeepEP, and for FP8 on a GPU whose Triton kernel does not compile.
    """

    def __init__(self, *arguments: Any, **keyword_arguments: Any) -> None:
        super().__init__(*arguments, **keyword_arguments)
        _require_known_runner(self.experts)
        _require_known_exchange(self.experts, get_moe_a2a_backend().value)
        _require_format_of_gpu(self.experts)
        # The identity part needs the tokens again after the experts.
        self.experts.moe_runner_config.inplace = False

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [T, H] to [T, H], this rank's part of a sum that the layer boundary completes."""
        # In float32 without TF32, as upstream: exact, for an estimated 0.4 ms of 8,192 tokens on a GPU.
        logits = self.router(hidden_states)
        routing = route_topk(
            logits,
            self.router.e_score_correction_bias,
            top_k=self.top_k,
            routed_experts=self.num_experts,
            scaling_factor=self.routed_scaling_factor,
        )
        # A view, because some runners empty their input tensor once they have read it.
        own = hidden_states.view_as(hidden_states)
        routed: Tensor = self.experts(own, StandardTopKOutput(routing.weights, routing.expert_ids, logits))
        if self.zero_expert_num and _adds_identity():
            return combine_identity(routed, hidden_states, routing.identity_weight, out=routed)
        return routed


def _require_known_runner(experts: Any) -> None:
    runner = experts.runner_backend
    if runner is None:
        # So SGLang marks methods of quantisation with a kernel of their own.
        raise ValueError(
            f"the kernel of {type(experts.quant_method).__name__} is not known to drop the slots of identity "
            "experts: leave --moe-runner-backend out, or use a checkpoint in bfloat16, in FP8, or packed in "
            "four bits by compressed-tensors, GPTQ, AutoRound or AWQ."
        )
    if runner.value not in _RUNNERS:
        raise ValueError(
            f"--moe-runner-backend {runner.value!r} is not known to drop the slots of identity experts; "
            f"use one of {', '.join(_RUNNERS)}."
        )


def _require_known_exchange(experts: Any, exchange: str) -> None:
    if exchange not in _EXCHANGES:
        raise ValueError(
            f"--moe-a2a-backend {exchange!r} is not known to leave out the slots of identity experts; "
            f"use one of {', '.join(_EXCHANGES)}."
        )
    # `deprecate_flag` is upstream's name for "computed by the runner"; what DeepEPMoE computes without one
    # has been removed, except for experts that are refused above. Upstream notices in the first forward pass.
    if exchange == "deepep" and (
        experts.runner_backend.value != _DEEPEP_RUNNER or not experts.deprecate_flag
    ):
        raise ValueError(
            f"behind --moe-a2a-backend deepep SGLang computes experts with the runner {_DEEPEP_RUNNER} alone "
            "(bfloat16 or block-wise FP8, compute capability 9.0 and above), but the runner here is "
            f"{experts.runner_backend.value!r}: add --moe-runner-backend {_DEEPEP_RUNNER}, or leave "
            "--moe-a2a-backend out."
        )


def _require_format_of_gpu(experts: Any) -> None:
    # Triton knows float8_e4m3fn from 8.9 on; SGLang finds out in the first forward pass. Packed experts have
    # no weight of this name.
    weight = getattr(experts, "w13_weight", None)
    is_fp8 = weight is not None and weight.dtype == torch.float8_e4m3fn
    if is_fp8 and experts.runner_backend.value == "triton" and is_cuda():
        capability = get_device_capability()
        if capability < _FP8_CAPABILITY:
            raise ValueError(
                "experts in FP8 need a GPU of compute capability 8.9 or above, this one has "
                f"{'.'.join(map(str, capability))}: serve a checkpoint in bfloat16 or packed in four bits."
            )


def _adds_identity() -> bool:
    """True if this rank adds the identity experts. If all ranks hold the same tokens, one of those whose
    outputs are summed adds them; if each has its own tokens, each does."""
    if not get_moe_a2a_backend().is_none() or post_experts_output_is_complete(is_tp_path=True):
        return True
    parallel = get_parallel()
    return bool(parallel.moe_ep_rank == 0 and parallel.moe_tp_rank == 0)
