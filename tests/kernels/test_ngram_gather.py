"""The torch path of the gather: every kind of table, whole and by columns."""

import pytest
import torch

from serval_kernels.ngram_embed import ngram_embed
from serval_kernels.ngram_gather import ngram_gather
from serval_kernels.row_quantization import dequantize_rows, quantize_rows

IDS = torch.tensor([[3, 0, 3], [8, 7, 1]])


def random_table() -> torch.Tensor:
    return torch.randn(9, 20, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ngram_gather_puts_rows_side_by_side(dtype: torch.dtype) -> None:
    table = random_table()
    got = ngram_gather(IDS.int(), table, dtype=dtype)
    expected = [torch.cat([table[i] for i in token]) for token in IDS.tolist()]
    assert torch.equal(got, torch.stack(expected).to(dtype))


@pytest.mark.parametrize("code", [torch.int8, torch.float8_e4m3fn])
def test_ngram_gather_decodes_codes(code: torch.dtype) -> None:
    table = quantize_rows(random_table(), code)
    expanded = dequantize_rows(table, dtype=torch.bfloat16)
    assert torch.equal(
        ngram_gather(IDS, table, dtype=torch.bfloat16), ngram_gather(IDS, expanded, dtype=torch.bfloat16)
    )


@pytest.mark.parametrize("code", [None, torch.int8])
@pytest.mark.parametrize("tokens", [0, 2])
def test_ngram_embed_accepts_any_table(code: torch.dtype | None, tokens: int) -> None:
    floats = random_table()
    table = floats if code is None else quantize_rows(floats, code)
    rows = floats if code is None else dequantize_rows(table, dtype=torch.float32)
    projection, words = torch.randn(60, 8), torch.randn(tokens, 8)
    got = ngram_embed(IDS[:tokens], table, projection, words)
    expected = (words + rows[IDS[:tokens]].flatten(1) @ projection) / 4
    torch.testing.assert_close(got, expected)
