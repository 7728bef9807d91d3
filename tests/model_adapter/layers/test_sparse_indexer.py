"""The engine's indexer against the reference's, over chunks, requests in one batch, and decode steps."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sparse_indexer = pytest.importorskip("serval_sglang.layers.sparse_indexer", reason="needs SGLang")
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context  # noqa: E402

from serval_sglang.config import LongcatConfig, SparseAttention  # noqa: E402
from serval_sglang.known_configs import TINY_SPARSE  # noqa: E402
from serval_sglang.layers.chosen_tokens import CHOSEN_TOKENS  # noqa: E402
from serval_sglang.reference.attention import LatentAttention  # noqa: E402
from serval_sglang.reference.rope import rotate, rotate_halves, rotation  # noqa: E402

assert TINY_SPARSE.sparse_attention is not None
SPARSE = TINY_SPARSE.sparse_attention
PLACES = 256


def config_with(**changes: Any) -> LongcatConfig:
    return replace(TINY_SPARSE, sparse_attention=replace(SPARSE, **changes))


def rope_of_the_reference(config: LongcatConfig) -> Any:
    """Stand-in for SGLang's rotary embedding, which outside an engine's process needs a GPU."""

    def made(*_: Any, is_neox_style: bool, **__: Any) -> Any:
        turn = rotate_halves if is_neox_style else rotate

        def turned(positions: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
            cos, sin = (part[:, None] for part in rotation(positions, config, dtype=torch.float32))
            return tuple(turn(vector, cos, sin) for vector in vectors)

        return turned

    return made


class Engine:
    """The engine's indexer with the weights of `attention`, and the parts of SGLang that it reads."""

    def __init__(self, attention: LatentAttention, config: LongcatConfig, sparse: SparseAttention) -> None:
        self.indexer = sparse_indexer.SparseIndexer(config, sparse, rope_scaling=None)
        assert attention.indexer is not None
        self.indexer.load_state_dict(attention.indexer.state_dict())
        query, latent = attention.q_a_proj.weight, attention.kv_a_proj_with_mqa.weight
        fused = torch.cat((query, latent))
        self.attention = SimpleNamespace(
            fused_qkv_a_proj_with_mqa=lambda x: (nn.functional.linear(x, fused), None),
            q_a_layernorm=attention.q_a_layernorm,
            layer_id=0,
        )
        places = torch.randperm(PLACES, generator=torch.Generator().manual_seed(1))
        self.req_to_token = places.view(2, PLACES // 2)
        self.backend = SimpleNamespace(
            token_to_kv_pool=SimpleNamespace(get_key_buffer=lambda _: torch.empty(PLACES, 1, 1)),
            req_to_token_pool=SimpleNamespace(req_to_token=self.req_to_token),
        )

    def choose(self, inputs: list[Tensor], parts: list[range], *, decode: bool = False) -> list[Any]:
        """Choose for the tokens `parts` of sequences whose inputs, each [tokens, H], are given."""
        lengths = torch.tensor([part.stop for part in parts])
        batch = SimpleNamespace(
            forward_mode=SimpleNamespace(is_extend=lambda: not decode),
            req_pool_indices=torch.arange(len(parts)),
            seq_lens=lengths,
            extend_seq_lens=torch.tensor([len(part) for part in parts]),
            out_cache_loc=torch.cat([self.req_to_token[i, list(part)] for i, part in enumerate(parts)]),
        )
        x = torch.cat([rows[list(part)] for rows, part in zip(inputs, parts, strict=True)])
        positions = torch.cat([torch.tensor(list(part)) for part in parts])
        with forward_context(ForwardContext(attn_backend=self.backend)):  # type: ignore[arg-type]
            self.indexer.choose(self.attention, x, positions, batch)
        chosen: list[Any] = getattr(self.backend, CHOSEN_TOKENS)
        return chosen


@pytest.mark.parametrize("interleaved", [False, True])
@torch.no_grad()
def test_choices_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch, interleaved: bool) -> None:
    config = config_with(indexer_rope_interleave=interleaved)
    monkeypatch.setattr(sparse_indexer, "get_rope_wrapper", rope_of_the_reference(config))
    sparse = config.sparse_attention
    assert sparse is not None
    torch.manual_seed(2)
    attention = LatentAttention(config, has_indexer=True)
    engine = Engine(attention, config, sparse)
    inputs = [torch.randn(length, config.hidden_size) for length in (90, 70)]
    expected = []
    for rows in inputs:
        rope = rotation(torch.arange(len(rows)), config, dtype=torch.float32)
        chosen = attention.chosen(rows[None], rope, None)
        assert chosen is not None
        expected.append(chosen[0, 0])
    # A chunk of the first request alone, then its next chunk beside all but one token of the second.
    assert engine.choose(inputs[:1], [range(40)]) == [None]
    second, other = engine.choose(inputs, [range(40, 89), range(69)])
    assert torch.equal(second, expected[0][40:89, :89])
    assert torch.equal(other, expected[1][:69, :69])
    last, other = engine.choose(inputs, [range(89, 90), range(69, 70)], decode=True)
    assert torch.equal(last, expected[0][89:, :90])
    assert torch.equal(other, expected[1][69:, :70])


def server_args(**given: Any) -> Any:
    none = {
        "enable_dp_attention": False,
        "enable_hierarchical_cache": False,
        "disaggregation_mode": "null",
        "speculative_algorithm": None,
    }
    return SimpleNamespace(**{**none, **given})


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"enable_dp_attention": True}, "--enable-dp-attention"),
        ({"enable_hierarchical_cache": True}, "--enable-hierarchical-cache"),
        ({"disaggregation_mode": "prefill"}, "--disaggregation-mode"),
        ({"speculative_algorithm": "NEXTN"}, "--speculative-algorithm"),
    ],
)
def test_flags_that_would_leave_the_indexers_state_behind_are_refused(
    given: dict[str, Any], flag: str
) -> None:
    assert sparse_indexer.reason_against_sparse(server_args()) is None
    reason = sparse_indexer.reason_against_sparse(server_args(**given))
    assert reason == f"{flag}: not supported with sparse attention, whose indexer has a state of its own"
