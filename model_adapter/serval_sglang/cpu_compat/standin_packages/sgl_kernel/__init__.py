"""Stand-in for the sglang-kernel wheel, which does not import without libcuda.so.1.

SGLang imports these names on a CPU. It calls those for chains of draft tokens, and none of the others.
"""

from typing import Any, NoReturn

from serval_sglang.cpu_compat.draft_kernels import CHAIN_KERNELS

_IMPORTED_BY_SGLANG = (
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "rmsnorm",
)


def _absent(name: str) -> Any:
    def kernel(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(
            f"sgl_kernel.{name} is not available: this CPU engine runs without the sglang-kernel wheel. "
            "Trees of draft tokens need a GPU."
        )

    kernel.__name__ = name
    return kernel


globals().update({name: _absent(name) for name in _IMPORTED_BY_SGLANG})
globals().update({kernel.__name__: kernel for kernel in CHAIN_KERNELS})
