"""Attention of draft tokens with SGLang's `torch_native` backend, which knows prefill and decode only.

Drafts form a chain: each token attends to the sequence and to the drafts before it, so a verification is a
prefill chunk, and the i-th draft step is a decode step of a sequence that is i tokens longer.
"""

import copy
from typing import Any

from torch import Tensor

_NATIVE = "torch_native"


def extend(original: Any, *arguments: Any, **named: Any) -> Tensor:
    """Wrap TorchNativeAttnBackend.forward_extend: compute a verification as the chunk that it is."""
    *others, forward_batch = arguments
    if forward_batch.forward_mode.is_target_verify():
        forward_batch = _as_chunk(forward_batch)
    output: Tensor = original(*others, forward_batch, **named)
    return output


def _as_chunk(forward_batch: Any) -> Any:
    """Return a copy with the lengths of a prefill chunk, which a verification leaves out: its `seq_lens` [B]
    are those before its tokens."""
    width = forward_batch.spec_info.draft_token_num
    chunk = copy.copy(forward_batch)
    chunk.extend_prefix_lens = forward_batch.seq_lens
    chunk.extend_seq_lens = forward_batch.seq_lens.new_full(forward_batch.seq_lens.shape, width)
    chunk.seq_lens = forward_batch.seq_lens + width
    return chunk


class DraftSteps:
    """Backends of all draft steps but the last, which computes nothing, in the form that SGLang expects."""

    needs_cpu_seq_lens = True

    def __init__(self, backends: list[Any]) -> None:
        self.attn_backends = backends

    def init_forward_metadata(self, forward_batch: Any) -> None:
        for backend in self.attn_backends:
            backend.init_forward_metadata(forward_batch)


def create_decode_backend(original: Any, factory: Any) -> Any:
    """Wrap DraftBackendFactory.create_decode_backend, which has none for `torch_native`."""
    if factory.speculative_num_steps <= 1 or not _is_native(factory):
        return original(factory)
    steps = [
        _step_backend(factory.draft_model_runner, step) for step in range(factory.speculative_num_steps - 1)
    ]
    return _named(DraftSteps([_named(step) for step in steps]))


def create_draft_extend_backend(original: Any, factory: Any) -> Any:
    """Wrap DraftBackendFactory.create_draft_extend_backend, which has none for `torch_native`."""
    if not _is_native(factory):
        return original(factory)
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

    return _named(TorchNativeAttnBackend(factory.draft_model_runner))


def _step_backend(model_runner: Any, step: int) -> Any:
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

    class DraftStep(TorchNativeAttnBackend):  # type: ignore[misc]  # sglang is untyped
        """Decode of a sequence that has `step + 1` more tokens than SGLang says."""

        def forward_decode(
            self, q: Tensor, k: Tensor, v: Tensor, layer: Any, forward_batch: Any, *more: Any, **named: Any
        ) -> Tensor:
            longer = copy.copy(forward_batch)
            longer.seq_lens = forward_batch.seq_lens + step + 1
            output: Tensor = super().forward_decode(q, k, v, layer, longer, *more, **named)
            return output

    return DraftStep(model_runner)


def _is_native(factory: Any) -> bool:
    from sglang.srt.runtime_context import attention_backends

    _, decode = attention_backends()
    return bool((factory.draft_attn_backend or decode) == _NATIVE)


def _named(backend: Any) -> Any:
    backend.prefill_attention_backend_str = backend.decode_attention_backend_str = _NATIVE
    return backend


_FACTORY = "sglang.srt.speculative.draft_utils.DraftBackendFactory"
AROUND = {
    "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend.forward_extend": extend,
    f"{_FACTORY}.create_decode_backend": create_decode_backend,
    f"{_FACTORY}.create_draft_extend_backend": create_draft_extend_backend,
}
