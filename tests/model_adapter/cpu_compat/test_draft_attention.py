"""Lengths that SGLang's attention sees for drafts, by stand-ins for its backends and batches."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serval_sglang.cpu_compat import draft_attention

native = pytest.importorskip("sglang.srt.layers.attention.torch_native_backend", reason="needs SGLang")


def forward_batch(*, verifies: bool) -> Any:
    return SimpleNamespace(
        forward_mode=SimpleNamespace(is_target_verify=lambda: verifies),
        spec_info=SimpleNamespace(draft_token_num=4),
        seq_lens=torch.tensor([5, 9]),
        extend_prefix_lens=None,
        extend_seq_lens=None,
    )


def test_extend_computes_a_verification_as_a_chunk() -> None:
    given = forward_batch(verifies=True)
    seen: list[Any] = []

    def original(*arguments: Any, save_kv_cache: bool) -> torch.Tensor:
        assert save_kv_cache
        seen.append(arguments)
        return torch.ones(1)

    draft_attention.extend(original, "backend", "q", "k", "v", "layer", given, save_kv_cache=True)
    ((*others, chunk),) = seen
    assert others == ["backend", "q", "k", "v", "layer"]
    assert chunk.extend_prefix_lens.tolist() == [5, 9]
    assert chunk.extend_seq_lens.tolist() == [4, 4]
    assert chunk.seq_lens.tolist() == [9, 13]
    # SGLang reads its own batch again in the next layer.
    assert given.seq_lens.tolist() == [5, 9]


def test_extend_leaves_prefill_alone() -> None:
    given = forward_batch(verifies=False)
    seen: list[Any] = []
    draft_attention.extend(lambda *arguments: seen.append(arguments[-1]), "backend", given)
    assert seen == [given]


class RecordingBackend:
    """Stands in for TorchNativeAttnBackend; records sequence lengths."""

    def __init__(self, _: Any) -> None:
        self.prepared = 0

    def init_forward_metadata(self, _: Any) -> None:
        self.prepared += 1

    def forward_decode(self, *arguments: Any, **_: Any) -> Any:
        return arguments[4].seq_lens.tolist()


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(native, "TorchNativeAttnBackend", RecordingBackend)
    return SimpleNamespace(
        draft_attn_backend="torch_native", draft_model_runner=None, speculative_num_steps=3
    )


def test_create_decode_backend_has_longer_sequences_for_each_step(
    factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = pytest.importorskip("sglang.srt.runtime_context", reason="needs SGLang")
    monkeypatch.setattr(context, "attention_backends", lambda: ("torch_native", "torch_native"))
    steps = draft_attention.create_decode_backend(None, factory)
    given = forward_batch(verifies=False)
    steps.init_forward_metadata(given)
    found = [step.forward_decode("q", "k", "v", "layer", given) for step in steps.attn_backends]
    # The third draft needs no pass behind it.
    assert found == [[6, 10], [7, 11]]
    assert [step.prepared for step in steps.attn_backends] == [1, 1]
    assert steps.attn_backends[0].decode_attention_backend_str == "torch_native"


@pytest.mark.parametrize("changes", [{"draft_attn_backend": "intel_amx"}, {"speculative_num_steps": 1}])
def test_create_decode_backend_leaves_others_to_sglang(
    factory: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    context = pytest.importorskip("sglang.srt.runtime_context", reason="needs SGLang")
    monkeypatch.setattr(context, "attention_backends", lambda: ("torch_native", "torch_native"))
    other = SimpleNamespace(**vars(factory) | changes)
    assert draft_attention.create_decode_backend(lambda _: "sglang's", other) == "sglang's"
