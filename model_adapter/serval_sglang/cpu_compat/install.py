"""Hooks of the CPU engine; the plugin calls `install` if SGLang runs on a CPU."""

from typing import Any

import torch

from serval_sglang.cpu_compat import block_fp8, draft_attention, latent_attention, waiting
from serval_sglang.cpu_compat.draft_sampling import sample_chains, verify_uses_greedy
from serval_sglang.cpu_compat.experts import run_experts

_DTYPES_OF_QUANTISED = (
    "sglang.srt.layers.quantization.fp8.Fp8Config.get_supported_act_dtypes",
    "sglang.srt.layers.quantization.gptq.gptq.GPTQConfig.get_supported_act_dtypes",
    "sglang.srt.layers.quantization.auto_round.AutoRoundConfig.get_supported_act_dtypes",
    "sglang.srt.layers.quantization.compressed_tensors.compressed_tensors."
    "CompressedTensorsConfig.get_supported_act_dtypes",
)


def install() -> list[str]:
    """Register the hooks and return their targets."""
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
    from sglang.srt.models.deepseek_common.attention_backend_handler import AttentionBackendRegistry
    from sglang.srt.models.deepseek_common.attention_forward_methods.forward_methods import AttnForwardMethod
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType
    from sglang.srt.speculative import eagle_utils

    # Unregistered backends get triton's choice: expanded multi-head attention, which torch_native cannot run
    # on a latent cache. It can run the absorbed form.
    AttentionBackendRegistry.register("torch_native", lambda attention, batch: AttnForwardMethod.MLA)

    # Attention DP pads batches with requests of this many tokens, in slot 0, which no request owns. Set
    # directly instead of by a hook, because the class lacks the method.
    TorchNativeAttnBackend.get_cpu_graph_seq_len_fill_value = lambda backend: 1

    # Set directly, because the name is None on a CPU.
    eagle_utils.tree_speculative_sampling_target_only = sample_chains

    replaced = {
        "sglang.srt.layers.moe.fused_moe_native.moe_forward_native": run_experts,
        "sglang.srt.distributed.device_communicators.pynccl.PyNcclCommunicator.__init__": _disable_nccl,
        "sglang.srt.distributed.parallel_state.GroupCoordinator.reduce_scatterv": _reduce_and_cut,
        **block_fp8.REPLACED,
        **latent_attention.REPLACED,
        **waiting.REPLACED,
        "sglang.srt.speculative.eagle_utils._verify_uses_greedy": verify_uses_greedy,
    }
    for target, hook in replaced.items():
        HookRegistry.register(target, hook, HookType.REPLACE)
    for target in _DTYPES_OF_QUANTISED:
        HookRegistry.register(target, _with_float32, HookType.AFTER)
    for target, hook in draft_attention.AROUND.items():
        HookRegistry.register(target, hook, HookType.AROUND)
    return [*replaced, *_DTYPES_OF_QUANTISED, *draft_attention.AROUND]


def _disable_nccl(communicator: Any, group: Any, *_: Any, **__: Any) -> None:
    """Set the attributes that PyNcclCommunicator sets without NCCL. CUDA builds of torch have NCCL even
    without a GPU."""
    communicator.rank = group.rank()
    communicator.world_size = group.size()
    communicator.group = group
    communicator.available = False
    communicator.disabled = True


def _reduce_and_cut(
    group: Any, input_: torch.Tensor, output: torch.Tensor | None = None, sizes: list[int] | None = None
) -> torch.Tensor:
    """Take upstream's own path without NCCL: compute the whole sum, then keep this rank's rows."""
    rows: torch.Tensor = group._deterministic_reduce_scatterv(input_, output, sizes)
    return rows


def _with_float32(dtypes: list[torch.dtype], config: type) -> list[torch.dtype]:
    """Add float32 to the supported dtypes: layers that are dequantised can be computed in any dtype."""
    return [*dtypes, torch.float32]
