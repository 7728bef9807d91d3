"""Row ids and the state of request slots: decode steps that a graph replays, and ragged prefill."""

from typing import Any

import torch
from torch import Tensor

from serval_kernels.bench.sizes import LITE
from serval_kernels.device_check.compare import require_close
from serval_kernels.device_check.replay import captured, how
from serval_kernels.ngram_context import FROM_RING, ring_columns
from serval_kernels.ngram_ids import NgramHash, ngram_hash
from serval_kernels.ngram_step import (
    decode_step_reference,
    decode_step_triton,
    extend_step_reference,
    extend_step_triton,
)

_EOS = 2
_STEPS = {"cuda": 200, "cpu": 5}
# Requests in a batch, of which some are padding as in a graph captured for a larger batch.
_BATCH, _LIVE = {"cuda": 256, "cpu": 8}, {"cuda": 200, "cpu": 6}
_SLOTS = {"cuda": 2049, "cpu": 33}  # row 0 belongs to padding
_LONGEST = {"cuda": 16_384, "cpu": 200}


def check_decode(device: torch.device) -> str:
    """Compare row ids and ring of replayed decode steps, with padding on row 0, with torch's."""
    return _check_passes(device, width=1)


def check_verify(device: torch.device) -> str:
    """Compare row ids and ring of replayed verify steps, of which a random number of tokens is accepted."""
    return _check_passes(device, width=4)


def _check_passes(device: torch.device, *, width: int) -> str:
    kind = device.type
    batch, live, count = _BATCH[kind], _LIVE[kind], _SLOTS[kind]
    ngram, generator = _constants(device), _generator(device)
    tokens, positions = (torch.zeros(batch * width, dtype=torch.int64, device=device) for _ in range(2))
    slots = torch.zeros(batch, dtype=torch.int64, device=device)
    ring = torch.zeros(count, ring_columns(order=LITE.order, width=width), dtype=torch.int32, device=device)
    expected_ring = ring.clone()
    state: dict[str, Any] = {
        "slots": slots,
        "positions": positions,
        "ngram": ngram,
        "eos_token_id": _EOS,
        "width": width,
    }
    step = captured(lambda: decode_step_triton(tokens, ring, **state), device)
    ring.zero_()
    ends = torch.zeros(count, dtype=torch.int64, device=device)  # position of each slot's next token
    draft = torch.arange(width, device=device)
    for number in range(_STEPS[kind]):
        tokens.copy_(_tokens(batch * width, generator, ends=0.1))
        slots.zero_()
        slots[:live] = torch.randperm(count - 1, generator=generator, device=device)[:live] + 1
        positions.copy_((ends[slots][:, None] + draft).flatten())
        rows = step()
        expected = decode_step_reference(tokens, expected_ring, **state)
        where = f"step {number} of {width} tokens a request"
        require_close(f"{where}: row ids", rows[: live * width], expected[: live * width])
        # Padding shares row 0, which keeps the tokens of any of its requests.
        require_close(f"{where}: ring", ring[1:], expected_ring[1:])
        _require_inside_tables(where, rows, ngram)
        accepted = torch.randint(1, width + 1, (live,), generator=generator, device=device)
        ends[slots[:live]] += accepted
    return f"{_STEPS[kind]} steps of {live} requests {how(device)}"


def check_prefill(device: torch.device) -> str:
    """Compare one ragged batch, with and without tokens from a cached prefix, with torch's."""
    total, count = _LONGEST[device.type], _SLOTS[device.type]
    generator, ngram = _generator(device), _constants(device)
    short = [1, 0, 2, 3, 31, 32, 33]
    middle = (total - sum(short)) // 3
    lengths = torch.tensor([*short, middle, total - sum(short) - middle], device=device)
    slots = torch.randperm(count - 1, generator=generator, device=device)[: len(lengths)] + 1
    earlier = _tokens(len(lengths) * (LITE.order - 1), generator, ends=0.1).view(len(lengths), -1).int()
    earlier[1::2] = FROM_RING
    for before in (None, earlier):
        tokens = _tokens(total, generator, ends=0.02)
        columns = ring_columns(order=LITE.order, width=1)
        ring = _tokens(count * columns, generator, ends=0.1).view(count, -1).int()
        expected_ring = ring.clone()
        runs: dict[str, Any] = {
            "slots": slots,
            "positions": torch.arange(total, device=device),
            "starts": (lengths.cumsum(0) - lengths).int(),
            "lengths": lengths.int(),
            "ngram": ngram,
            "eos_token_id": _EOS,
            "before": before,
        }
        rows = extend_step_triton(tokens, ring, **runs)
        where = f"prefill of {total} tokens, {'no ' if before is None else ''}cached prefix"
        expected = extend_step_reference(tokens, expected_ring, **runs)
        require_close(f"{where}: row ids", rows, expected)
        require_close(f"{where}: ring", ring, expected_ring)
    return f"{total:,} tokens in runs of {int(lengths.min())} to {int(lengths.max()):,}"


def _constants(device: torch.device) -> NgramHash:
    constants = ngram_hash(
        vocab_size=LITE.vocab, base=LITE.ngram_base, max_order=LITE.order, splits=LITE.splits
    )
    return NgramHash(*(part.to(device) for part in constants))


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(0)


def _tokens(count: int, generator: torch.Generator, *, ends: float) -> Tensor:
    """Return random token ids [count], of which the share `ends` are ends of sequence."""
    device = generator.device
    tokens = torch.randint(LITE.vocab, (count,), generator=generator, device=device)
    tokens[torch.rand(count, generator=generator, device=device) < ends] = _EOS
    return tokens


def _require_inside_tables(where: str, rows: Tensor, ngram: NgramHash) -> None:
    inside = (rows >= ngram.offsets) & (rows < ngram.offsets + ngram.moduli)
    if not bool(inside.all()):
        raise AssertionError(f"{where}: {int((~inside).sum())} row ids lie outside their tables.")
