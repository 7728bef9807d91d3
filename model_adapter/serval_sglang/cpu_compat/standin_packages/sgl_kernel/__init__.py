"""Stand-in for the sglang-kernel wheel, which does not import without libcuda.so.1.

SGLang imports these names on a CPU but calls none of them without speculative decoding.
"""

from typing import Any, NoReturn

_IMPORTED_BY_SGLANG = (
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "rmsnorm",
    "verify_tree_greedy_cpu",
)


def _absent(name: str) -> Any:
    def kernel(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(
            f"sgl_kernel.{name} is not available: this CPU engine runs without the sglang-kernel wheel. "
            "Speculative decoding needs a GPU."
        )

    kernel.__name__ = name
    return kernel


globals().update({name: _absent(name) for name in _IMPORTED_BY_SGLANG})
