"""Attention over a latent cache against SGLang's own, which is slower.

Tried: one token and many, cached prefixes of none and of some tokens, sequences whose places in the cache are
scattered, one head and several, float32 and bfloat16, rows of a padded batch that belong to no request.
"""

from typing import Any

import pytest
import torch

from serval_sglang.cpu_compat import latent_attention

KEY, VALUE, SLOTS, TOKENS = 12, 8, 6, 64


def caches(heads: int, rows: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return query, output, keys, values, which are the first part of the keys, and places by slot."""
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(rows, heads, KEY, generator=generator).to(dtype)
    keys = torch.randn(SLOTS * TOKENS, 1, KEY, generator=generator).to(dtype)
    places = torch.randperm(SLOTS * TOKENS, generator=generator).view(SLOTS, TOKENS)
    return [query, torch.zeros(rows, heads, VALUE, dtype=dtype), keys, keys[..., :VALUE], places]


def assert_same(
    method: str, ours: Any, heads: int, rows: int, dtype: torch.dtype, *lengths: list[int]
) -> None:
    # Imported late, because that takes seconds of every run that only collects.
    module = "sglang.srt.layers.attention.torch_native_backend"
    native = pytest.importorskip(module, reason="needs SGLang")
    options = {"scaling": 0.3, "enable_gqa": heads > 1, "causal": method.endswith("extend")}
    slots = torch.arange(len(lengths[0])) * 2 % SLOTS
    outputs = []
    for attend in (getattr(native.TorchNativeAttnBackend, method), ours):
        given = caches(heads, rows, dtype)
        outputs.append(attend(None, *given, slots, *map(torch.tensor, lengths), None, **options))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(*outputs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", [1, 4])
def test_decode_agrees_with_sglang(heads: int, dtype: torch.dtype) -> None:
    assert_same("_run_sdpa_forward_decode", latent_attention.decode, heads, 3, dtype, [1, 17, 64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", [1, 4])
def test_extend_agrees_with_sglang(heads: int, dtype: torch.dtype) -> None:
    prefixes, counts = [0, 5, 30], [1, 12, 7]
    lengths = [prefix + count for prefix, count in zip(prefixes, counts, strict=True)]
    rows = sum(counts) + 2
    assert_same(
        "_run_sdpa_forward_extend", latent_attention.extend, heads, rows, dtype, lengths, prefixes, counts
    )
