"""Operations to measure: inputs at fixed addresses, and a call for each path."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from serval_kernels.bench import builtin, roofline
from serval_kernels.bench.roofline import TableFormat, Work
from serval_kernels.bench.sizes import Sizes
from serval_kernels.combine_identity import combine_identity, combine_identity_reference
from serval_kernels.ngram_embed import ngram_embed, ngram_embed_reference
from serval_kernels.ngram_gather import NgramTable, ngram_gather, ngram_gather_reference
from serval_kernels.ngram_ids import ngram_hash
from serval_kernels.ngram_step import (
    decode_step,
    decode_step_reference,
    extend_step,
    extend_step_reference,
)
from serval_kernels.route_topk import route_topk, route_topk_reference
from serval_kernels.row_quantization import QuantizedTable, quantize_rows

TableKind = Literal["device", "int8", "fp8", "host", "host-int8"]

EOS = 2
SCALE = 6.0
_DECODE_LIMIT = 512  # larger batches are prefill: runs of 1,024 tokens
_RUN = 1024
_FILL_ROWS, _FILL_WORDS = 65_537, 1_009
_CODES = {"int8": torch.int8, "host-int8": torch.int8, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Path:
    """One way to compute an operation, with the bytes it moves and the operations it performs."""

    name: str
    call: Callable[[], Tensor | tuple[Tensor, ...]]
    work: Work


@dataclass(frozen=True)
class Case:
    """An operation at one size; `floor` is the work that any path must do."""

    operation: str
    tokens: int
    table: str
    floor: Work
    paths: list[Path]
    next_input: Callable[[], object]


@dataclass(frozen=True)
class Weights:
    """Weights shared by the cases."""

    table: NgramTable
    format: TableFormat
    words: Tensor  # [V, H]
    projections: Tensor  # [tables, width, H]
    dtype: torch.dtype


def make_weights(sizes: Sizes, kind: TableKind, device: torch.device, *, dtype: torch.dtype) -> Weights:
    """Return random weights; the table repeats a random block, since only the addresses of rows matter."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(min(_FILL_ROWS, sizes.rows), sizes.width, generator=generator).to(dtype)
    words = torch.randn(min(_FILL_WORDS, sizes.vocab), sizes.hidden, generator=generator).to(dtype)
    on_host = kind.startswith("host")
    place = torch.device("cpu") if on_host else device
    table: NgramTable
    if kind in _CODES:
        parts = quantize_rows(block, _CODES[kind])
        table = QuantizedTable(*(_repeated(part, sizes.rows, place, pinned=on_host) for part in parts))
    else:
        table = _repeated(block, sizes.rows, place, pinned=on_host)
    code_bytes = (1, 4) if kind in _CODES else (dtype.itemsize, 0)
    return Weights(
        table=table,
        format=TableFormat(*code_bytes, on_host=on_host),
        words=_repeated(words, sizes.vocab, device, pinned=False),
        projections=torch.randn(sizes.tables, sizes.width, sizes.hidden, dtype=dtype, device=device) / 56,
        dtype=dtype,
    )


def _repeated(block: Tensor, rows: int, place: torch.device, *, pinned: bool) -> Tensor:
    whole = torch.empty(
        rows,
        *block.shape[1:],
        dtype=block.dtype,
        device=place,
        pin_memory=pinned and torch.cuda.is_available(),
    )
    block = block.to(place)
    for start in range(0, rows, len(block)):
        part = whole[start : start + len(block)]
        part.copy_(block[: len(part)])
    return whole


def table_cases(sizes: Sizes, kind: TableKind, weights: Weights, tokens: int) -> Iterator[Case]:
    """Yield the cases that read the table: the gather alone, and the embedding up to hidden states."""
    device = weights.words.device
    inputs = _StepInputs(sizes, tokens, device)
    stacked = weights.projections.flatten(0, 1)
    table, dtype, value_bytes = weights.table, weights.dtype, weights.dtype.itemsize
    row_ids = inputs.step()
    on_gpu = device.type == "cuda"

    def fused() -> Tensor:
        word_rows = F.embedding(inputs.tokens, weights.words)
        return ngram_embed(inputs.step(), table, stacked, word_rows, in_place=True)

    def reference() -> Tensor:
        ids = inputs.step_reference()
        word_rows = F.embedding(inputs.tokens, weights.words)
        return ngram_embed_reference(ids, table, stacked, word_rows, in_place=True)

    def as_built_in() -> Tensor:
        # SGLang computes ids with its own CUDA kernel; ours takes its place, so that only the embedding is
        # compared.
        assert isinstance(table, Tensor)
        return builtin.embed(inputs.step().int(), table, weights.projections, inputs.tokens, weights.words)

    step = roofline.step_work(tokens, inputs.requests, sizes)
    counts = {"value_bytes": value_bytes}
    floor = step + roofline.embed_work(tokens, sizes, weights.format, **counts)
    fused_work = step + roofline.fused_embed_work(tokens, sizes, weights.format, **counts)
    paths = [Path("serval", fused, fused_work)]
    if kind == "device":
        work = step + roofline.builtin_embed_work(tokens, sizes, weights.format, **counts)
        paths.append(Path("built-in", as_built_in, work))
        if on_gpu:
            paths.append(Path("reference", reference, fused_work))
    yield Case("embed", tokens, kind, floor, paths, inputs.next)

    gather = roofline.gather_work(tokens, sizes, weights.format, **counts)
    paths = [Path("serval", lambda: ngram_gather(row_ids, table, dtype=dtype), gather)]
    if on_gpu and not weights.format.on_host:
        paths.append(Path("reference", lambda: ngram_gather_reference(row_ids, table, dtype=dtype), gather))
    yield Case("gather", tokens, kind, gather, paths, lambda: inputs.next_rows(row_ids))


def other_cases(sizes: Sizes, tokens: int, device: torch.device, *, dtype: torch.dtype) -> Iterator[Case]:
    """Yield the cases without a table: row ids and state, router, sum of routed and identity experts."""
    inputs = _StepInputs(sizes, tokens, device)
    step = roofline.step_work(tokens, inputs.requests, sizes)
    on_gpu = device.type == "cuda"
    paths = [Path("serval", inputs.step, step)]
    if on_gpu:
        paths.append(Path("reference", inputs.step_reference, step))
    yield Case("step", tokens, "-", step, paths, inputs.next)

    logits = torch.randn(tokens, sizes.experts, device=device)
    bias = torch.randn(sizes.experts, device=device) / sizes.experts
    route = {"top_k": sizes.top_k, "routed_experts": sizes.routed_experts}
    work = roofline.route_work(tokens, sizes)
    paths = [
        Path("serval", lambda: route_topk(logits, bias, **route, scaling_factor=SCALE), work),
        Path(
            "built-in",
            lambda: builtin.route(logits, bias, **route),
            roofline.builtin_route_work(tokens, sizes),
        ),
    ]
    if on_gpu:
        paths.append(
            Path("reference", lambda: route_topk_reference(logits, bias, **route, scaling_factor=SCALE), work)
        )
    yield Case("route", tokens, "-", work, paths, lambda: None)

    routed, hidden = (torch.randn(tokens, sizes.hidden, device=device).to(dtype) for _ in range(2))
    identity = torch.rand(tokens, sizes.top_k, device=device) / sizes.top_k
    weight = identity.sum(dim=1)
    # The built-in algorithm scales in place; a scale of 1 keeps repeated calls from overflowing.
    work = roofline.combine_work(tokens, sizes, value_bytes=dtype.itemsize)
    slower = roofline.builtin_combine_work(tokens, sizes, value_bytes=dtype.itemsize)
    paths = [
        Path("serval", lambda: combine_identity(routed, hidden, weight, out=routed), work),
        Path("built-in", lambda: builtin.combine(routed, hidden, identity, routed_scale=1.0), slower),
    ]
    if on_gpu:
        paths.append(Path("reference", lambda: combine_identity_reference(routed, hidden, weight), work))
    yield Case("combine", tokens, "-", work, paths, routed.normal_)


class _StepInputs:
    """Tokens of a step in tensors at fixed addresses, refilled at random by `next`."""

    def __init__(self, sizes: Sizes, tokens: int, device: torch.device) -> None:
        self.sizes = sizes
        self.decodes = tokens <= _DECODE_LIMIT
        self.requests = tokens if self.decodes else -(-tokens // _RUN)
        self.tokens = torch.zeros(tokens, dtype=torch.int64, device=device)
        self.history = torch.zeros(self.requests, sizes.order - 1, dtype=torch.int32, device=device)
        self.slots = torch.arange(self.requests, device=device)
        self.starts = self.slots * _RUN
        self.lengths = (tokens - self.starts).clamp(max=_RUN)
        constants = ngram_hash(
            vocab_size=sizes.vocab, base=sizes.ngram_base, max_order=sizes.order, splits=sizes.splits
        )
        self.ngram = type(constants)(*(part.to(device) for part in constants))
        self.next()

    def next(self) -> None:
        """Draw new tokens and a new history."""
        self.tokens.random_(self.sizes.vocab)
        self.history.random_(self.sizes.vocab)

    def next_rows(self, row_ids: Tensor) -> None:
        """Draw new row ids, in place."""
        self.next()
        row_ids.copy_(self.step())

    def step(self) -> Tensor:
        """Return row ids computed by the public operation."""
        if self.decodes:
            return decode_step(
                self.tokens, self.history, slots=self.slots, ngram=self.ngram, eos_token_id=EOS
            )
        return extend_step(
            self.tokens,
            self.history,
            slots=self.slots,
            starts=self.starts,
            lengths=self.lengths,
            ngram=self.ngram,
            eos_token_id=EOS,
        )

    def step_reference(self) -> Tensor:
        """Return row ids computed by the torch reference."""
        if self.decodes:
            return decode_step_reference(
                self.tokens, self.history, slots=self.slots, ngram=self.ngram, eos_token_id=EOS
            )
        return extend_step_reference(
            self.tokens,
            self.history,
            slots=self.slots,
            starts=self.starts,
            lengths=self.lengths,
            ngram=self.ngram,
            eos_token_id=EOS,
        )
