"""Hooks of the CPU engine; the plugin calls :func:`install` where SGLang runs on a CPU."""

from __future__ import annotations

from typing import Any

from serval_sglang.cpu_compat.experts import run_experts


def install() -> list[str]:
    """Register the hooks; returns their targets."""
    from sglang.srt.models.deepseek_common.attention_backend_handler import AttentionBackendRegistry
    from sglang.srt.models.deepseek_common.attention_forward_methods.forward_methods import AttnForwardMethod
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    # Unregistered backends get triton's choice: expanded multi-head attention, which torch_native cannot run
    # on a latent cache. The absorbed form it can.
    AttentionBackendRegistry.register("torch_native", lambda attention, batch: AttnForwardMethod.MLA)

    replaced = {
        "sglang.srt.layers.moe.fused_moe_native.moe_forward_native": (run_experts, HookType.REPLACE),
        "sglang.srt.distributed.device_communicators.pynccl.PyNcclCommunicator.__init__": (
            _disable_nccl,
            HookType.REPLACE,
        ),
    }
    for target, (hook, kind) in replaced.items():
        HookRegistry.register(target, hook, kind)
    return list(replaced)


def _disable_nccl(communicator: Any, group: Any, *_: Any, **__: Any) -> None:
    """What PyNcclCommunicator sets where NCCL is absent; CUDA builds of torch have it without a GPU too."""
    communicator.rank = group.rank()
    communicator.world_size = group.size()
    communicator.group = group
    communicator.available = False
    communicator.disabled = True
