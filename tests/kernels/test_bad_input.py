"""Invalid arguments are reported before anything is computed, and alike by every implementation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from serval_kernels import combine_identity as combine
from serval_kernels import launch, ngram_gather, ngram_step, route_topk
from serval_kernels.ngram_embed import ngram_embed
from serval_kernels.ngram_ids import NgramHash, ngram_hash
from serval_kernels.row_quantization import QuantizedTable, quantize_rows

Operation = Callable[..., object]
HASH = ngram_hash(vocab_size=11, base=29, max_order=4, splits=1)
ELSEWHERE = torch.device("meta")


def ints(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def implementations(module: Any, name: str) -> list[Operation]:
    return [getattr(module, name + ending) for ending in ("", "_reference", "_triton")]


def valid_decode() -> dict[str, Any]:
    return {
        "tokens": ints(2),
        "ring": ints(4, 4),
        "slots": ints(2),
        "positions": ints(2),
        "ngram": HASH,
        "eos_token_id": 2,
    }


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"tokens": floats(2)}, TypeError, "tokens must be int32 or int64, got float32"),
        ({"tokens": ints(2, 1)}, ValueError, r"tokens must have shape \[B \* width\], got \[2, 1\]"),
        ({"tokens": ints(4)[::2]}, ValueError, "tokens must be contiguous"),
        ({"ring": ints(4, 2)}, ValueError, "ring must have a power of two of at least 4 columns, got 2"),
        ({"ring": ints(4, 6)}, ValueError, "ring must have a power of two of at least 4 columns, got 6"),
        ({"width": 2, "slots": ints(1)}, ValueError, "a power of two of at least 5 columns, got 4"),
        ({"ring": floats(4, 4)}, TypeError, "ring must be"),
        ({"ring": ints(4, 4).t()}, ValueError, "ring must be contiguous"),
        ({"slots": ints(3)}, ValueError, "tokens must be 1 for each of 3 slots, got 2 tokens"),
        ({"width": 0}, ValueError, "width must be at least 1, got 0"),
        ({"positions": ints(3)}, ValueError, r"positions must have shape \[2\]"),
        ({"positions": floats(2)}, TypeError, "positions must be"),
        ({"slots": ints(2).to(ELSEWHERE)}, ValueError, "slots must be on 'cpu' like the others, got 'meta'"),
        ({"ngram": NgramHash(HASH.powers.int(), *HASH[1:])}, TypeError, "ngram.powers must be int64"),
        ({"ngram": NgramHash(HASH.powers[:2], *HASH[1:])}, ValueError, "ngram.moduli must have shape"),
        ({"ngram": NgramHash(HASH.powers[:, :1].clone(), *HASH[1:])}, ValueError, "n of at least 2, got 1"),
    ],
)
def test_decode_step_refuses_bad_input(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    for operation in implementations(ngram_step, "decode_step"):
        with pytest.raises(error, match=message):
            operation(**{**valid_decode(), **changed})


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"starts": ints(3)}, ValueError, r"starts must have shape \[2\]"),
        ({"lengths": floats(2)}, TypeError, "lengths must be"),
        ({"before": ints(2, 2)}, ValueError, r"before must have shape \[2, 3\]"),
        ({"slots": ints(0), "starts": ints(0), "lengths": ints(0)}, ValueError, "belong to no request"),
    ],
)
def test_extend_step_refuses_bad_input(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    valid = {**valid_decode(), "tokens": ints(5), "positions": ints(5), "starts": ints(2), "lengths": ints(2)}
    for operation in implementations(ngram_step, "extend_step"):
        with pytest.raises(error, match=message):
            operation(**{**valid, **changed})


@pytest.mark.parametrize("slot", [-1, 4])
def test_decode_step_raises_index_error_for_slot_outside_state(slot: int) -> None:
    with pytest.raises(IndexError, match=r"slots must be in \[0, 4\)"):
        ngram_step.decode_step(**{**valid_decode(), "slots": torch.tensor([0, slot])})


CODES = quantize_rows(floats(5, 4), torch.int8)


@pytest.mark.parametrize(
    ("row_ids", "table", "error", "message"),
    [
        (floats(2, 3), floats(5, 4), TypeError, "row_ids must be"),
        (ints(2), floats(5, 4), ValueError, r"row_ids must have shape \[T, tables\]"),
        (ints(2, 3), floats(5), ValueError, r"table must have shape \[rows, width\]"),
        (ints(2, 3), ints(5, 4), TypeError, "table must be float32 or bfloat16 or float16, got int64"),
        (ints(2, 3), floats(5, 8)[:, ::2], ValueError, "table must be contiguous within each row"),
        (ints(2, 3), floats(5, 4).to(ELSEWHERE), ValueError, "table must be on 'cpu'"),
        (
            ints(2, 3),
            QuantizedTable(floats(5, 4), floats(5)),
            TypeError,
            "table.codes must be int8 or float8",
        ),
        (
            ints(2, 3),
            QuantizedTable(CODES.codes, floats(4)),
            ValueError,
            r"table.scales must have shape \[5\]",
        ),
        (
            ints(2, 3),
            QuantizedTable(CODES.codes, CODES.scales.half()),
            TypeError,
            "table.scales must be float32",
        ),
    ],
)
def test_ngram_gather_refuses_bad_input(
    row_ids: torch.Tensor, table: Any, error: type[Exception], message: str
) -> None:
    for operation in implementations(ngram_gather, "ngram_gather"):
        with pytest.raises(error, match=message):
            operation(row_ids, table, dtype=torch.float32)


def test_ngram_gather_refuses_integer_dtype() -> None:
    for operation in implementations(ngram_gather, "ngram_gather"):
        with pytest.raises(TypeError, match=r"dtype must be one of .*got torch\.int8"):
            operation(ints(2, 3), floats(5, 4), dtype=torch.int8)


@pytest.mark.parametrize("row", [-1, 5])
def test_ngram_gather_raises_index_error_for_id_outside_table(row: int) -> None:
    for table in (floats(5, 4), CODES):
        with pytest.raises(IndexError):
            ngram_gather.ngram_gather(torch.tensor([[row]]), table, dtype=torch.float32)


def test_ngram_gather_refuses_table_that_gpu_cannot_read() -> None:
    """Calls the check itself, because without a GPU there can be no row ids on one."""
    gpu = torch.device("cuda", 0)
    with pytest.raises(ValueError, match=r"table is in pageable host memory.*pin it"):
        ngram_gather._check_readable("table", floats(5, 4), gpu)
    with pytest.raises(ValueError, match=r"table must be on 'cuda:0' like row_ids, or in pinned host memory"):
        ngram_gather._check_readable("table", floats(5, 4).to(ELSEWHERE), gpu)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"row_ids": ints(3, 3)}, ValueError, r"row_ids must have shape \[2, tables\] to match word_rows"),
        ({"tables": floats(5)}, ValueError, r"tables must have shape \[rows, width\]"),
        ({"projection": floats(11, 6)}, ValueError, r"projection must have shape \[12, 6\], got \[11, 6\]"),
        ({"projection": floats(12, 6).bfloat16()}, TypeError, "projection must be float32, got bfloat16"),
        ({"word_rows": ints(2, 6)}, TypeError, "word_rows must be"),
    ],
)
def test_ngram_embed_refuses_bad_input(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    valid = {
        "row_ids": ints(2, 3),
        "tables": floats(5, 4),
        "projection": floats(12, 6),
        "word_rows": floats(2, 6),
    }
    with pytest.raises(error, match=message):
        ngram_embed(**{**valid, **changed})


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"logits": floats(2, 9).bfloat16()}, TypeError, "logits must be float32, got bfloat16"),
        ({"logits": floats(9)}, ValueError, r"logits must have shape \[T, experts\]"),
        ({"bias": floats(8)}, ValueError, r"bias must have shape \[9\]"),
        ({"top_k": 0}, ValueError, "top_k must be between 1 and the 9 experts of logits, got 0"),
        ({"top_k": 10}, ValueError, "top_k must be"),
        ({"routed_experts": 10}, ValueError, "routed_experts must be between 0 and the 9 experts"),
    ],
)
def test_route_topk_refuses_bad_input(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    valid = {
        "logits": floats(2, 9), "bias": floats(9), "top_k": 3, "routed_experts": 6, "scaling_factor": 6.0
    }  # fmt: skip
    for operation in implementations(route_topk, "route_topk"):
        with pytest.raises(error, match=message):
            operation(**{**valid, **changed})


SHARED = floats(3, 6)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"routed": ints(2, 6)}, TypeError, "routed must be"),
        ({"tokens": floats(2, 6).bfloat16()}, TypeError, "tokens must be float32, got bfloat16"),
        ({"tokens": floats(3, 6)}, ValueError, r"tokens must have shape \[2, 6\]"),
        ({"identity_weight": floats(2).half()}, TypeError, "identity_weight must be float32"),
        ({"identity_weight": floats(3)}, ValueError, r"identity_weight must have shape \[2\]"),
        ({"residual": floats(2, 5)}, ValueError, "residual must have shape"),
        ({"out": floats(6, 2).t()}, ValueError, "out must be contiguous"),
        (
            {"routed": SHARED[:2], "out": SHARED[1:]},
            ValueError,
            "out must be one of the inputs itself or share no",
        ),
    ],
)
def test_combine_identity_refuses_bad_input(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    valid = {"routed": floats(2, 6), "tokens": floats(2, 6), "identity_weight": floats(2)}
    for operation in implementations(combine, "combine_identity"):
        with pytest.raises(error, match=message):
            operation(**{**valid, **changed})


@pytest.mark.parametrize(
    ("rows", "dtype", "error", "message"),
    [
        (floats(2, 3), torch.uint8, TypeError, "dtype must be one of"),
        (ints(2, 3), torch.int8, TypeError, "rows must be float32"),
        (torch.tensor([[1.0, float("inf")]]), torch.int8, ValueError, "rows must be finite"),
        (torch.tensor([[1.0, float("nan")]]), torch.float8_e4m3fn, ValueError, "rows must be finite"),
    ],
)
def test_quantize_rows_refuses_bad_input(
    rows: torch.Tensor, dtype: torch.dtype, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        quantize_rows(rows, dtype)


@pytest.mark.skipif(launch.INTERPRETED, reason="the interpreter takes tensors on the CPU")
def test_kernels_refuse_tensors_on_cpu() -> None:
    with pytest.raises(ValueError, match="Triton kernels take tensors on a GPU, got device 'cpu'"):
        combine.combine_identity_triton(floats(2, 6), floats(2, 6), floats(2))
