"""Attention over a latent cache against SGLang's own, which is slower.

Tried: one token and many, cached prefixes of none and of some tokens, sequences whose places in the cache are
scattered, one head and several, float32 and bfloat16, rows of a padded batch that belong to no request.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serval_sglang.cpu_compat import latent_attention
from serval_sglang.layers.chosen_tokens import CHOSEN_TOKENS

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


def test_chosen_tokens_replace_all_earlier_ones_of_their_sequence_only() -> None:
    query, _, keys, values, places = caches(heads=2, rows=5, dtype=torch.float32)
    slots = torch.tensor([0, 2])
    chosen = torch.zeros(3, 9, dtype=torch.bool)
    chosen[0, [0, 6]] = chosen[1, [1, 4, 7]] = chosen[2, [8]] = True
    backend = SimpleNamespace(**{CHOSEN_TOKENS: [chosen, None]})

    def run(attend: Any, given: Any, *lengths: list[int]) -> torch.Tensor:
        output = torch.zeros(5, 2, VALUE)
        attend(
            given, query, output, keys, values, places, slots, *map(torch.tensor, lengths), None, scaling=0.3
        )
        return output

    dense = run(latent_attention.extend, SimpleNamespace(), [9, 4], [6, 2], [3, 2])
    sparse = run(latent_attention.extend, backend, [9, 4], [6, 2], [3, 2])
    torch.testing.assert_close(sparse[3:], dense[3:])
    for row, tokens in enumerate(([0, 6], [1, 4, 7], [8])):
        weights = (query[row] * 0.3 @ keys[places[0, tokens], 0].T).softmax(-1)
        torch.testing.assert_close(sparse[row], weights @ values[places[0, tokens], 0])
    step = SimpleNamespace(**{CHOSEN_TOKENS: [chosen[1:2], None]})
    decoded = run(latent_attention.decode, step, [9, 4])
    weights = (query[0] * 0.3 @ keys[places[0, [1, 4, 7]], 0].T).softmax(-1)
    torch.testing.assert_close(decoded[0], weights @ values[places[0, [1, 4, 7]], 0])
    torch.testing.assert_close(decoded[1], run(latent_attention.decode, SimpleNamespace(), [9, 4])[1])
