"""Attention over a latent cache, which holds one key and one value for each token, shared by all heads.

SGLang's `torch_native` backend copies them for each head, and attends from all cached tokens again in each
prefill. Here a sequence takes two products of matrices.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from serval_sglang.layers.chosen_tokens import CHOSEN_TOKENS


def decode(  # noqa: PLR0917 - called by position
    backend: Any,
    query: Tensor,
    output: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    encoder_lens: None,
    *,
    scaling: float,
    **_: Any,
) -> Tensor:
    """Attend from one token of each of B sequences; fill and return `output`.

    Args:
        query: [B, heads, key size]; `output` [B, heads, value size].
        k_cache: [tokens, 1, key size]; `v_cache` [tokens, 1, value size].
        req_to_token: [slots, tokens]; places in the caches by slot of a request.
        req_pool_indices: [B], slots; `seq_lens` [B], tokens that each sequence has in the caches.
    """
    chosen = _chosen(backend, len(seq_lens))
    for row, (slot, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
        places = req_to_token[slot, :length]
        tokens = chosen[row]
        if tokens is not None:
            places = places[tokens[0]]
        weights = _scores(query[row], k_cache[places, 0], scaling).softmax(dim=-1)
        output[row] = weights @ v_cache[places, 0].float()
    return output


def extend(  # noqa: PLR0917 - called by position
    backend: Any,
    query: Tensor,
    output: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    extend_prefix_lens: Tensor,
    extend_seq_lens: Tensor,
    encoder_lens: None,
    *,
    scaling: float,
    **_: Any,
) -> Tensor:
    """As `decode`, from the last `extend_seq_lens` tokens of each sequence; each attends up to itself."""
    start = 0
    chosen = _chosen(backend, len(seq_lens))
    sequences = (req_pool_indices.tolist(), seq_lens.tolist(), extend_prefix_lens.tolist())
    for (slot, length, prefix), count, tokens in zip(
        zip(*sequences, strict=True), extend_seq_lens.tolist(), chosen, strict=True
    ):
        rows = slice(start, start + count)
        places = req_to_token[slot, :length]
        scores = _scores(query[rows], k_cache[places, 0], scaling)
        unseen = torch.ones(count, length, dtype=torch.bool).triu(prefix + 1) if tokens is None else ~tokens
        weights = scores.masked_fill_(unseen[:, None], -torch.inf).softmax(dim=-1)
        output[rows] = weights @ v_cache[places, 0].float()
        start += count
    return output


def _chosen(backend: Any, sequences: int) -> Sequence[Tensor | None]:
    chosen: Sequence[Tensor | None] | None = getattr(backend, CHOSEN_TOKENS, None)
    return [None] * sequences if chosen is None else chosen


def _scores(query: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Map [..., key size] and [tokens, key size] to [..., tokens], in float32."""
    return (query.float() * scaling) @ keys.float().T


_BACKEND = "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend"
REPLACED = {f"{_BACKEND}._run_sdpa_forward_decode": decode, f"{_BACKEND}._run_sdpa_forward_extend": extend}
