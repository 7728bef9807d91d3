"""`ngram_gather` against its torch reference and one row at a time; addresses beyond 2^31 bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serval_kernels.launch import INTERPRETED
from serval_kernels.ngram_gather import ngram_gather, ngram_gather_reference, ngram_gather_triton
from serval_kernels.row_quantization import QuantizedTable, quantize_rows
from serval_testkit.triton_device import DEVICE, rounding_ulps

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
CODES = [torch.int8, torch.float8_e4m3fn]


def random_table(rows: int, width: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def assert_rounded_once(got: torch.Tensor, exact: torch.Tensor) -> None:
    """Compare with `exact` in float64; the error of float32 is small beside a shorter dtype's rounding."""
    slack = rounding_ulps(got.dtype) * torch.finfo(got.dtype).eps
    # The smallest normal number bounds the spacing of subnormal ones.
    bound = exact.abs() * slack * 1.001 + torch.finfo(got.dtype).tiny * slack
    assert ((got.double() - exact).abs() <= bound).all()


@st.composite
def ids_and_shape(draw: st.DrawFn) -> tuple[torch.Tensor, int, int]:
    rows, width, tables = draw(st.integers(1, 40)), draw(st.integers(1, 37)), draw(st.integers(1, 5))
    ids = draw(st.lists(st.lists(st.integers(0, rows - 1), min_size=tables, max_size=tables), max_size=6))
    integers = draw(st.sampled_from([torch.int32, torch.int64]))
    return torch.tensor(ids, dtype=integers, device=DEVICE).view(-1, tables), rows, width


@given(ids_and_shape(), st.sampled_from(FLOATS))
def test_ngram_gather_copies_floats_bit_by_bit(
    case: tuple[torch.Tensor, int, int], dtype: torch.dtype
) -> None:
    ids, rows, width = case
    table = random_table(rows, width).to(dtype)
    got = ngram_gather_triton(ids, table, dtype=dtype)
    expected = [torch.cat([table[i] for i in token]) for token in ids.tolist()]
    assert got.shape == (len(ids), ids.shape[1] * width)
    assert not expected or torch.equal(got, torch.stack(expected))
    assert torch.equal(got, ngram_gather_reference(ids, table, dtype=dtype))


@given(ids_and_shape(), st.sampled_from(CODES), st.sampled_from(FLOATS))
def test_ngram_gather_decodes_and_rounds_codes_once(
    case: tuple[torch.Tensor, int, int], code: torch.dtype, dtype: torch.dtype
) -> None:
    ids, rows, width = case
    table = quantize_rows(random_table(rows, width), code)
    got = ngram_gather_triton(ids, table, dtype=dtype)
    exact = [
        torch.cat([table.codes[i].double() * table.scales[i].double() for i in token])
        for token in ids.tolist()
    ]
    if exact:
        assert_rounded_once(got, torch.stack(exact))
    if rounding_ulps(dtype) == 0.5:
        assert torch.equal(got, ngram_gather_reference(ids, table, dtype=dtype))


def test_ngram_gather_decodes_every_float8_code_like_torch() -> None:
    codes = torch.arange(256, dtype=torch.uint8, device=DEVICE).view(torch.float8_e4m3fn).view(16, 16)
    table = QuantizedTable(codes, torch.ones(16, device=DEVICE))
    got = ngram_gather_triton(torch.arange(16, device=DEVICE).view(-1, 1), table, dtype=torch.float32)
    torch.testing.assert_close(got, codes.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("tokens", [1, 2, 1400])
def test_ngram_gather_handles_few_and_many_rows(tokens: int) -> None:
    """1,400 tokens of 12 tables exceed the number of rows from which a program processes 16 of them."""
    table = random_table(50, 4)
    ids = torch.randint(50, (tokens, 12), generator=torch.Generator().manual_seed(tokens)).to(DEVICE)
    got = ngram_gather_triton(ids, table, dtype=torch.float32)
    assert torch.equal(got, ngram_gather_reference(ids, table, dtype=torch.float32))


@pytest.mark.parametrize("quantized", [False, True])
def test_ngram_gather_gives_zeros_for_id_outside_table(*, quantized: bool) -> None:
    floats = random_table(5, 6)
    table = quantize_rows(floats, torch.int8) if quantized else floats
    ids = torch.tensor([[4, -1, 5, 2**40, -(2**62)]], device=DEVICE)
    got = ngram_gather_triton(ids, table, dtype=torch.float32).view(5, 6)
    assert got[0].any()
    assert not got[1:].any()


def test_ngram_gather_reads_columns_of_wider_table() -> None:
    wide = random_table(9, 20)
    ids = torch.tensor([[8, 0], [3, 3]], device=DEVICE)
    got = ngram_gather_triton(ids, wide[:, 5:12], dtype=torch.float32)
    assert torch.equal(got, wide[ids][:, :, 5:12].flatten(1))


@pytest.fixture
def _sparse_tables_stay_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip copies of a storage onto itself, which the interpreter makes for each argument: they would touch
    every page of a table too large for memory."""
    copy = torch.UntypedStorage.copy_

    def copy_if_different(target: torch.UntypedStorage, source: torch.UntypedStorage) -> object:
        return target if target.data_ptr() == source.data_ptr() else copy(target, source)

    monkeypatch.setattr(torch.UntypedStorage, "copy_", copy_if_different)


@pytest.mark.usefixtures("_sparse_tables_stay_sparse")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_ngram_gather_reads_rows_beyond_two_gibibytes(dtype: torch.dtype) -> None:
    width = 256
    rows = 2**31 // (width * dtype.itemsize) + 7
    # Virtual memory: only the pages written below are allocated.
    values = torch.empty(rows, width, dtype=dtype, device=DEVICE)
    last = torch.arange(-128, 128, device=DEVICE).to(dtype)
    values[rows - 1] = last
    values[0] = 1
    scales = torch.full((rows,), 0.5, device=DEVICE) if dtype == torch.int8 else None
    table = values if scales is None else QuantizedTable(values, scales)
    ids = torch.tensor([[rows - 1, 0]], dtype=torch.int32, device=DEVICE)
    got = ngram_gather_triton(ids, table, dtype=torch.float32).view(2, width)
    factor = 1.0 if scales is None else 0.5
    assert torch.equal(got[0], last.float() * factor)
    assert torch.equal(got[1], torch.full((width,), factor, device=DEVICE))


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="reading pinned memory needs a GPU: run pytest on a machine with one")
@pytest.mark.parametrize("code", [None, *CODES])
def test_ngram_gather_reads_pinned_host_memory(code: torch.dtype | None) -> None:
    floats = random_table(1000, 256).bfloat16().cpu()
    if code is None:
        on_host, on_device = floats.pin_memory(), floats.to(DEVICE)
    else:
        parts = quantize_rows(floats, code)
        on_host = QuantizedTable(*(part.pin_memory() for part in parts))
        on_device = QuantizedTable(*(part.to(DEVICE) for part in parts))
    ids = torch.randint(1000, (64, 12)).to(DEVICE)
    got = ngram_gather(ids, on_host, dtype=torch.bfloat16)
    assert torch.equal(got, ngram_gather(ids, on_device, dtype=torch.bfloat16))
    assert torch.equal(got, ngram_gather_reference(ids, on_host, dtype=torch.bfloat16))


@pytest.mark.gpu
@pytest.mark.skipif(
    INTERPRETED, reason="pageable memory is told apart by CUDA: run pytest on a machine with a GPU"
)
def test_ngram_gather_refuses_pageable_memory() -> None:
    with pytest.raises(ValueError, match="pin it"):
        ngram_gather(
            torch.zeros(1, 1, dtype=torch.int64, device=DEVICE), torch.zeros(4, 4), dtype=torch.float32
        )
