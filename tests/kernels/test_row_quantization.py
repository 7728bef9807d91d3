"""Eight-bit rows: size of the error, and behaviour at the ends of the range."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serval_kernels.row_quantization import dequantize_rows, quantize_rows

# Half a step of int8's even grid, and of float8's coarsest interval, which is 32 wide at 448.
WORST = {torch.int8: 0.5 / 127, torch.float8_e4m3fn: 16 / 448}


@pytest.mark.parametrize("code", [torch.int8, torch.float8_e4m3fn])
@given(seed=st.integers(0, 999), exponent=st.integers(-100, 100))
@settings(deadline=None, max_examples=50)
def test_quantize_rows_error_is_at_most_half_a_step(code: torch.dtype, seed: int, exponent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(7, 33, generator=generator) * 2.0**exponent
    table = quantize_rows(rows, code)
    off = (dequantize_rows(table, dtype=torch.float32) - rows).abs().amax(1)
    assert (off <= rows.abs().amax(1) * WORST[code] * (1 + 1e-5)).all()


@pytest.mark.parametrize("code", [torch.int8, torch.float8_e4m3fn])
def test_quantize_rows_keeps_largest_value(code: torch.dtype) -> None:
    rows = torch.tensor([[3.0, -1.0], [-5.0, 0.1], [3.4e38, -3.4e38]])
    table = quantize_rows(rows, code)
    assert table.codes.float().isfinite().all()
    largest = dequantize_rows(table, dtype=torch.float32).abs().amax(1)
    torch.testing.assert_close(largest, rows.abs().amax(1))


@pytest.mark.parametrize("code", [torch.int8, torch.float8_e4m3fn])
def test_quantize_rows_accepts_zeros_and_no_rows(code: torch.dtype) -> None:
    rows = torch.tensor([[0.0, -0.0], [1e-45, 0.0]])
    assert not dequantize_rows(quantize_rows(rows, code), dtype=torch.float32).any()
    empty = quantize_rows(torch.empty(0, 4), code)
    assert (empty.codes.shape, empty.scales.shape) == ((0, 4), (0,))
