"""Attention over a latent cache, which holds one key and one value for each token, shared by all heads.

SGLang's `torch_native` backend copies them for each head, and attends from all cached tokens again in each
prefill. Here a sequence takes two products of matrices.
"""

from typing import Any

import torch
from torch import Tensor


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
    for row, (slot, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
        places = req_to_token[slot, :length]
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
    sequences = (req_pool_indices.tolist(), seq_lens.tolist(), extend_prefix_lens.tolist())
    for (slot, length, prefix), count in zip(
        zip(*sequences, strict=True), extend_seq_lens.tolist(), strict=True
    ):
        rows = slice(start, start + count)
        places = req_to_token[slot, :length]
        scores = _scores(query[rows], k_cache[places, 0], scaling)
        later = torch.ones(count, length, dtype=torch.bool).triu(prefix + 1)
        weights = scores.masked_fill_(later[:, None], -torch.inf).softmax(dim=-1)
        output[rows] = weights @ v_cache[places, 0].float()
        start += count
    return output


def _scores(query: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Map [..., key size] and [tokens, key size] to [..., tokens], in float32."""
    return (query.float() * scaling) @ keys.float().T


_BACKEND = "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend"
REPLACED = {f"{_BACKEND}._run_sdpa_forward_decode": decode, f"{_BACKEND}._run_sdpa_forward_extend": extend}
