"""Eight-bit rows: how far off, and that nothing falls off the ends."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serval_kernels.row_quantization import dequantize_rows, quantize_rows

# Half a step of the even grid; half a step of the coarsest float8 interval, 32 wide at 448.
WORST = {torch.int8: 0.5 / 127, torch.float8_e4m3fn: 16 / 448}


@pytest.mark.parametrize("code", [torch.int8, torch.float8_e4m3fn])
@given(seed=st.integers(0, 999), exponent=st.integers(-100, 100))
@settings(deadline=None, max_examples=50)
def test_no_value_is_further_off_than_half_a_step(code: torch.dtype, seed: int, exponent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(7, 33, generator=generator) * 2.0**exponent
    table = quantize_rows(rows, code)
    off = (dequantize_rows(table, dtype=torch.float32) - rows).abs().amax(1)
    assert (off <= rows.abs().amax(1) * WORST[code] * (1 + 1e-5)).all()


@pytest.mark.parametrize("code", [torch.int8, torch.float8_e4m3fn])
def test_the_largest_value_of_a_row_keeps_its_sign_and_size(code: torch.dtype) -> None:
    rows = torch.tensor([[3.0, -1.0], [-5.0, 0.1], [3.4e38, -3.4e38]])
    table = quantize_rows(rows, code)
    assert table.codes.float().isfinite().all()
    largest = dequantize_rows(table, dtype=torch.float32).abs().amax(1)
    torch.testing.assert_close(largest, rows.abs().amax(1))


@pytest.mark.parametrize("code", [torch.int8, torch.float8_e4m3fn])
def test_rows_of_nothing(code: torch.dtype) -> None:
    rows = torch.tensor([[0.0, -0.0], [1e-45, 0.0]])
    assert not dequantize_rows(quantize_rows(rows, code), dtype=torch.float32).any()
    empty = quantize_rows(torch.empty(0, 4), code)
    assert (empty.codes.shape, empty.scales.shape) == ((0, 4), (0,))
