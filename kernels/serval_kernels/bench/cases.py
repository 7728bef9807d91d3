"""Operations to measure: inputs at fixed addresses, a call for each path, and the definition."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from serval_kernels.bench import builtin, roofline
from serval_kernels.bench.agreement import difference, routing_difference
from serval_kernels.bench.roofline import TableFormat, Work
from serval_kernels.bench.sizes import Sizes
from serval_kernels.combine_identity import combine_identity, combine_identity_reference
from serval_kernels.ngram_context import ring_columns
from serval_kernels.ngram_embed import ngram_embed, ngram_embed_reference
from serval_kernels.ngram_gather import NgramTable, ngram_gather, ngram_gather_reference
from serval_kernels.ngram_ids import ngram_hash
from serval_kernels.ngram_step import (
    decode_step,
    decode_step_reference,
    extend_step,
    extend_step_reference,
)
from serval_kernels.route_topk import DROPPED, Routing, route_topk, route_topk_reference
from serval_kernels.row_quantization import QuantizedTable, quantize_rows

TableKind = Literal["device", "int8", "fp8", "host", "host-int8"]

Result = Tensor | tuple[Tensor, ...]

EOS = 2
SCALE = 6.0
_INPUT_SEED = 7
_DECODE_LIMIT = 512  # larger batches are prefill: runs of 1,024 tokens
_RUN = 1024
_FILL_ROWS, _FILL_WORDS = 65_537, 1_009
_CODES = {"int8": torch.int8, "host-int8": torch.int8, "fp8": torch.float8_e4m3fn}


def compare_tensors(result: Result, expected: Result, slack: float) -> str | None:
    """Compare two results of one tensor; the default of `Case.compare`."""
    assert isinstance(result, Tensor)
    assert isinstance(expected, Tensor)
    return difference(result, expected, slack=slack)


@dataclass(frozen=True)
class Path:
    """One way to compute an operation, with the bytes it moves and the operations it performs.

    `slack` is the absolute error that it adds to the result by rounding intermediate ones.
    """

    name: str
    call: Callable[[], Result]
    work: Work
    slack: float = 0.0


@dataclass(frozen=True)
class Case:
    """An operation at one size.

    - `floor`: the work that any path must do
    - `paths`: the built-in one first, so that ratios to it are known when the others are measured
    - `next_input`: draws another input from torch's global generators
    - `reference`: the definition, computed from the same input
    - `state`: tensors that a call changes, compared as well
    """

    operation: str
    tokens: int
    table: str
    floor: Work
    paths: list[Path]
    next_input: Callable[[], object]
    reference: Callable[[], Result]
    state: Sequence[Tensor] = ()
    compare: Callable[[Result, Result, float], str | None] = compare_tensors


def disagreement(case: Case, path: Path) -> str | None:
    """Run `path` once and say how its result differs from the definition's; None if it does not."""
    expected, expected_state = _outcome(case, case.reference)
    result, state = _outcome(case, path.call)
    found = case.compare(result, expected, path.slack)
    pairs = zip(state, expected_state, strict=True)
    return found or next((f"state: {text}" for text in (difference(*pair) for pair in pairs) if text), None)


def _outcome(case: Case, call: Callable[[], Result]) -> tuple[Result, list[Tensor]]:
    torch.manual_seed(_INPUT_SEED)
    case.next_input()
    result = call()
    # Paths may return the tensors that the next call writes to.
    copied = result.clone() if isinstance(result, Tensor) else tuple(part.clone() for part in result)
    return copied, [tensor.clone() for tensor in case.state]


@dataclass(frozen=True)
class Weights:
    """Weights shared by the cases."""

    table: NgramTable
    format: TableFormat
    words: Tensor  # [V, H]
    projections: Tensor  # [tables, width, H]
    dtype: torch.dtype


def make_weights(sizes: Sizes, kind: TableKind, device: torch.device, *, dtype: torch.dtype) -> Weights:
    """Return random weights; the table repeats a random block, since only the addresses of rows matter.

    As in the engine, a table on the host leaves its scales on the device.
    """
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(min(_FILL_ROWS, sizes.rows), sizes.width, generator=generator).to(dtype)
    words = torch.randn(min(_FILL_WORDS, sizes.vocab), sizes.hidden, generator=generator).to(dtype)
    on_host = kind.startswith("host")
    place = torch.device("cpu") if on_host else device
    table: NgramTable
    if kind in _CODES:
        parts = quantize_rows(block, _CODES[kind])
        table = QuantizedTable(
            codes=_repeated(parts.codes, sizes.rows, place, pinned=on_host),
            scales=_repeated(parts.scales, sizes.rows, device, pinned=False),
        )
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


def table_paths(kind: TableKind, device: torch.device) -> dict[str, list[str]]:
    """Return the names of the paths that are timed for each operation that reads such a table."""
    embed, gather = ["serval"], ["serval"]
    if kind == "device":
        embed.insert(0, "built-in")
    if device.type == "cuda":  # on a CPU `serval` is the reference
        embed += ["reference"] if kind == "device" else []
        gather += [] if kind.startswith("host") else ["reference"]
    return {"embed": embed, "gather": gather}


def table_cases(sizes: Sizes, kind: TableKind, weights: Weights, tokens: int) -> Iterator[Case]:
    """Yield the cases that read the table: the gather alone, and the embedding up to hidden states."""
    device = weights.words.device
    inputs = _StepInputs(sizes, tokens, device)
    stacked = weights.projections.flatten(0, 1)
    table, dtype, value_bytes = weights.table, weights.dtype, weights.dtype.itemsize
    row_ids = inputs.step()
    timed = table_paths(kind, device)

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
    # Matrix products may add partial sums in the dtype of the result, and the built-in algorithm rounds each
    # term of the mean: values below 1, divided by 13.
    slack = torch.finfo(dtype).eps / 2
    built_in_work = step + roofline.builtin_embed_work(tokens, sizes, weights.format, **counts)
    paths = [
        Path("built-in", as_built_in, built_in_work, slack),
        Path("serval", fused, fused_work, slack),
        Path("reference", reference, fused_work, slack),
    ]
    paths = [path for path in paths if path.name in timed["embed"]]
    yield Case("embed", tokens, kind, floor, paths, inputs.next, reference, state=(inputs.ring,))

    def gathered() -> Tensor:
        return ngram_gather_reference(row_ids, table, dtype=dtype)

    gather = roofline.gather_work(tokens, sizes, weights.format, **counts)
    paths = [
        Path("serval", lambda: ngram_gather(row_ids, table, dtype=dtype), gather),
        Path("reference", gathered, gather),
    ]
    paths = [path for path in paths if path.name in timed["gather"]]
    yield Case("gather", tokens, kind, gather, paths, lambda: inputs.next_rows(row_ids), gathered)


def other_cases(sizes: Sizes, tokens: int, device: torch.device, *, dtype: torch.dtype) -> Iterator[Case]:
    """Yield the cases without a table: row ids and state, router, sum of routed and identity experts."""
    yield _step_case(sizes, tokens, device)
    yield _route_case(sizes, tokens, device)
    yield _combine_case(sizes, tokens, device, dtype)


def _step_case(sizes: Sizes, tokens: int, device: torch.device) -> Case:
    inputs = _StepInputs(sizes, tokens, device)
    work = roofline.step_work(tokens, inputs.requests, sizes)
    paths = [Path("serval", inputs.step, work)]
    if device.type == "cuda":
        paths.append(Path("reference", inputs.step_reference, work))
    return Case("step", tokens, "-", work, paths, inputs.next, inputs.step_reference, state=(inputs.ring,))


def _route_case(sizes: Sizes, tokens: int, device: torch.device) -> Case:
    logits = torch.randn(tokens, sizes.experts, device=device)
    bias = torch.randn(sizes.experts, device=device) / sizes.experts
    options = {"top_k": sizes.top_k, "routed_experts": sizes.routed_experts}

    def reference() -> Result:
        return route_topk_reference(logits, bias, **options, scaling_factor=SCALE)

    def compare(result: Result, _: Result, __: float) -> str | None:
        return routing_difference(
            as_routing(result), logits, bias, routed_experts=sizes.routed_experts, scaling_factor=SCALE
        )

    work = roofline.route_work(tokens, sizes)
    paths = [
        Path(
            "built-in",
            lambda: builtin.route(logits, bias, **options),
            roofline.builtin_route_work(tokens, sizes),
        ),
        Path("serval", lambda: route_topk(logits, bias, **options, scaling_factor=SCALE), work),
    ]
    if device.type == "cuda":
        paths.append(Path("reference", reference, work))
    return Case("route", tokens, "-", work, paths, logits.normal_, reference, compare=compare)


def as_routing(result: Result) -> Routing:
    """Return the result of any path as a `Routing`. The built-in algorithm scales nothing, and gives identity
    slots expert 0 with weight 0 and their weights apart, [T, k]."""
    weights, ids, identity = result
    if identity.dim() == 1:
        return Routing(weights, ids, identity)
    return Routing(
        weights=weights * SCALE,
        expert_ids=ids.masked_fill(identity > 0, DROPPED),
        identity_weight=identity.sum(dim=1) * SCALE,
    )


def _combine_case(sizes: Sizes, tokens: int, device: torch.device, dtype: torch.dtype) -> Case:
    routed, hidden = (torch.randn(tokens, sizes.hidden, device=device).to(dtype) for _ in range(2))
    identity = torch.rand(tokens, sizes.top_k, device=device) / sizes.top_k
    weight = identity.sum(dim=1)

    def reference() -> Tensor:
        return combine_identity_reference(routed, hidden, weight)

    work = roofline.combine_work(tokens, sizes, value_bytes=dtype.itemsize)
    slower = roofline.builtin_combine_work(tokens, sizes, value_bytes=dtype.itemsize)
    # The built-in algorithm rounds the identity part, values of up to about 6. It scales in place; a scale of
    # 1 keeps repeated calls from overflowing.
    slack = 4 * torch.finfo(dtype).eps
    paths = [
        Path("built-in", lambda: builtin.combine(routed, hidden, identity, routed_scale=1.0), slower, slack),
        Path("serval", lambda: combine_identity(routed, hidden, weight, out=routed), work),
    ]
    if device.type == "cuda":
        paths.append(Path("reference", reference, work))
    return Case("combine", tokens, "-", work, paths, routed.normal_, reference)


class _StepInputs:
    """Tokens of a step in tensors at fixed addresses, refilled at random by `next`."""

    def __init__(self, sizes: Sizes, tokens: int, device: torch.device) -> None:
        self.sizes = sizes
        self.decodes = tokens <= _DECODE_LIMIT
        self.requests = tokens if self.decodes else -(-tokens // _RUN)
        self.tokens = torch.zeros(tokens, dtype=torch.int64, device=device)
        columns = ring_columns(order=sizes.order, width=1)
        self.ring = torch.zeros(self.requests, columns, dtype=torch.int32, device=device)
        self.slots = torch.arange(self.requests, device=device)
        self.starts = self.slots * _RUN
        self.lengths = (tokens - self.starts).clamp(max=_RUN)
        constants = ngram_hash(
            vocab_size=sizes.vocab, base=sizes.ngram_base, max_order=sizes.order, splits=sizes.splits
        )
        self.state: dict[str, Any] = {
            "slots": self.slots,
            "positions": torch.full_like(self.tokens, sizes.order),  # far enough to look all the way back
            "ngram": type(constants)(*(part.to(device) for part in constants)),
            "eos_token_id": EOS,
        }
        self.next()

    def next(self) -> None:
        """Draw new tokens and those before them."""
        self.tokens.random_(self.sizes.vocab)
        self.ring.random_(self.sizes.vocab)

    def next_rows(self, row_ids: Tensor) -> None:
        """Draw new row ids, in place."""
        self.next()
        row_ids.copy_(self.step())

    def step(self) -> Tensor:
        """Return row ids computed by the public operation."""
        if self.decodes:
            return decode_step(self.tokens, self.ring, **self.state)
        return extend_step(self.tokens, self.ring, **self.state, starts=self.starts, lengths=self.lengths)

    def step_reference(self) -> Tensor:
        """Return row ids computed by the torch reference."""
        if self.decodes:
            return decode_step_reference(self.tokens, self.ring, **self.state)
        return extend_step_reference(
            self.tokens, self.ring, **self.state, starts=self.starts, lengths=self.lengths
        )
