"""N-gram row ids of new tokens and update of the state of each sequence, in one launch.

The state is `ring` [slots, R], R a power of two: the token at position p of a sequence is in column p mod R
of its request's row (`ngram_context`). A step reads the n - 1 tokens before its first position, computes the
row ids of every new token, and writes new tokens to their columns. Nothing is rolled back when the engine
rejects draft tokens of a verify pass: the next pass begins at the first rejected position, reads only what is
before it, and overwrites the rest. The launch depends on shapes only, never on values, so it can be captured
in a CUDA graph: copy the next step's tokens, positions and slots into the captured tensors and replay.

A request of a decode step loads its slot, position and token and n - 1 tokens of the ring, beside the
constants of the hash; it stores one token and the row ids. A decode or verify step reads and writes different
columns, so it needs no barrier.

If a slot occurs twice in a batch, it keeps the tokens of one of the two (padding of CUDA graphs goes to a
slot that no request owns). On a GPU a slot outside the state reads as empty and is not written, since raising
would need a copy to the host; on a CPU it raises `IndexError`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from serval_kernels.checks import INTEGERS, check_tensor
from serval_kernels.launch import launch, power_of_two, runs_on_triton
from serval_kernels.ngram_context import (
    FROM_RING,
    decode_windows,
    extend_windows,
    last_tokens,
    read_ring,
    write_ring,
)
from serval_kernels.ngram_ids import NgramHash, ngram_ids
from serval_kernels.ngram_step_kernel import step_kernel

_BLOCK = 32  # tokens per program; times 16 tables, four elements for each thread of four warps


def decode_step(
    tokens: Tensor,
    ring: Tensor,
    *,
    slots: Tensor,
    positions: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    width: int = 1,
) -> Tensor:
    """Process `width` new tokens for each request: 1 to decode, more to verify drafts behind the first.

    - `tokens` int32 or int64 [B * width]: those of each request side by side
    - `ring` int32 or int64 [slots, R], R a power of two of at least n - 1 + width: updated in place
    - `slots` int32 or int64 [B]: the row of `ring` of each request
    - `positions` int32 or int64 [B * width]: of each token in its sequence; only the first of each request is
      read, since the others follow it
    - `ngram`: the constants of the hash, on the device of `tokens`
    - `eos_token_id`: ends the look-back

    Return rows of the stacked tables, int64 [B * width, tables]. Raises `TypeError` if a dtype is none of the
    above, and `ValueError` if shapes or devices do not match, `ring` is too small, or a tensor is not
    contiguous.
    """
    compute = decode_step_triton if runs_on_triton(tokens) else decode_step_reference
    return compute(
        tokens,
        ring,
        slots=slots,
        positions=positions,
        ngram=ngram,
        eos_token_id=eos_token_id,
        width=width,
    )


def extend_step(
    tokens: Tensor,
    ring: Tensor,
    *,
    slots: Tensor,
    positions: Tensor,
    starts: Tensor,
    lengths: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    before: Tensor | None = None,
) -> Tensor:
    """Process a run of new tokens for each request; return rows of the stacked tables, int64 [T, tables].

    - `tokens` int32 or int64 [T]: the runs one after another; rows after the last run are padding, whose ids
      are meaningless but valid
    - `ring`, `slots`, `ngram`, `eos_token_id`: as for `decode_step`, with R of at least n - 1
    - `positions` int32 or int64 [T]: of each token in its sequence; only the first of each run is read
    - `starts` int32 or int64 [B], ascending from 0: where each run begins in `tokens`; a run may be empty,
      and then changes nothing
    - `lengths` int32 or int64 [B]: tokens in each run
    - `before` int32 or int64 [B, n - 1]: the tokens before each run, oldest first, 0 before the sequence, if
      the caller knows them (a prefix found in a cache). A row that begins with `FROM_RING` (-1) is read from
      `ring`; None reads all from there

    The last n - 1 tokens up to the end of each run are written to their columns, those of `before` included.
    Raises as `decode_step` does, and `ValueError` if there are tokens but no request.
    """
    compute = extend_step_triton if runs_on_triton(tokens) else extend_step_reference
    return compute(
        tokens,
        ring,
        slots=slots,
        positions=positions,
        starts=starts,
        lengths=lengths,
        ngram=ngram,
        eos_token_id=eos_token_id,
        before=before,
    )


def decode_step_reference(
    tokens: Tensor,
    ring: Tensor,
    *,
    slots: Tensor,
    positions: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    width: int = 1,
) -> Tensor:
    """`decode_step` in torch."""
    _check_decode(tokens, ring, slots=slots, positions=positions, ngram=ngram, width=width)
    _check_slots(slots, ring)
    first, runs = positions[::width], tokens.view(-1, width)
    before = read_ring(ring, slots, first, look_back=ngram.powers.shape[1] - 1)
    write_ring(ring, slots, first, runs)
    return ngram_ids(decode_windows(runs, before), ngram, eos_token_id=eos_token_id)


def extend_step_reference(
    tokens: Tensor,
    ring: Tensor,
    *,
    slots: Tensor,
    positions: Tensor,
    starts: Tensor,
    lengths: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    before: Tensor | None = None,
) -> Tensor:
    """`extend_step` in torch."""
    _check_extend(
        tokens,
        ring,
        slots=slots,
        positions=positions,
        starts=starts,
        lengths=lengths,
        ngram=ngram,
        before=before,
    )
    _check_slots(slots, ring)
    count, look_back = tokens.shape[0], ngram.powers.shape[1] - 1
    if count == 0:
        return tokens.new_empty(0, ngram.powers.shape[0], dtype=torch.int64)
    first = positions.long()[starts.long().clamp(0, count - 1)]
    earlier = read_ring(ring, slots, first, look_back=look_back)
    if before is not None:
        earlier = torch.where(before[:, :1] == FROM_RING, earlier, before.long())
    last = last_tokens(tokens, earlier, starts, lengths)
    end = first + lengths.long()
    write_ring(ring, slots, end - look_back, last, written=lengths > 0)
    return ngram_ids(extend_windows(tokens, earlier, starts), ngram, eos_token_id=eos_token_id)


def decode_step_triton(
    tokens: Tensor,
    ring: Tensor,
    *,
    slots: Tensor,
    positions: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    width: int = 1,
) -> Tensor:
    """`decode_step` in one launch."""
    _check_decode(tokens, ring, slots=slots, positions=positions, ngram=ngram, width=width)
    return _launch_step(
        tokens,
        ring,
        slots=slots,
        positions=positions,
        ngram=ngram,
        eos_token_id=eos_token_id,
        width=width,
        starts=None,
        lengths=None,
        before=None,
    )


def extend_step_triton(
    tokens: Tensor,
    ring: Tensor,
    *,
    slots: Tensor,
    positions: Tensor,
    starts: Tensor,
    lengths: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    before: Tensor | None = None,
) -> Tensor:
    """`extend_step` in one launch."""
    _check_extend(
        tokens,
        ring,
        slots=slots,
        positions=positions,
        starts=starts,
        lengths=lengths,
        ngram=ngram,
        before=before,
    )
    return _launch_step(
        tokens,
        ring,
        slots=slots,
        positions=positions,
        ngram=ngram,
        eos_token_id=eos_token_id,
        width=0,
        starts=starts,
        lengths=lengths,
        before=before,
    )


def _launch_step(
    tokens: Tensor,
    ring: Tensor,
    *,
    slots: Tensor,
    positions: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    width: int,
    starts: Tensor | None,
    lengths: Tensor | None,
    before: Tensor | None,
) -> Tensor:
    """Launch with `width` tokens a request, or 0 if `starts` and `lengths` give each request's run."""
    count, requests = tokens.shape[0], slots.shape[0]
    tables, order = ngram.powers.shape
    row_ids = torch.empty(count, tables, dtype=torch.int64, device=tokens.device)
    blocks = 0 if width else -(-count // _BLOCK)
    if requests + blocks == 0:
        return row_ids
    launch(
        step_kernel,
        (requests + blocks,),
        tokens.device,
        tokens,
        ring,
        slots,
        positions,
        starts,
        lengths,
        before,
        *ngram,
        row_ids,
        count,
        requests,
        ring.shape[0],
        eos_token_id,
        requests.bit_length(),
        ORDER=order,
        TABLES=tables,
        TABLE_BLOCK=power_of_two(tables),
        RING=ring.shape[1],
        WIDTH=width,
        HEAD=power_of_two(width or order - 1),
        BLOCK=_BLOCK,
        HAS_BEFORE=before is not None,
        num_warps=4,
    )
    return row_ids


def _check_decode(
    tokens: Tensor, ring: Tensor, *, slots: Tensor, positions: Tensor, ngram: NgramHash, width: int
) -> None:
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width!r}.")
    check_tensor("tokens", tokens, shape=("B * width",), dtypes=INTEGERS)
    _check_state(tokens, ring, positions=positions, ngram=ngram, width=width)
    check_tensor("slots", slots, shape=("B",), dtypes=INTEGERS, device=tokens.device)
    if tokens.shape[0] != slots.shape[0] * width:
        raise ValueError(
            f"tokens must be {width} for each of {slots.shape[0]} slots, got {tokens.shape[0]} tokens."
        )


def _check_extend(
    tokens: Tensor,
    ring: Tensor,
    *,
    slots: Tensor,
    positions: Tensor,
    starts: Tensor,
    lengths: Tensor,
    ngram: NgramHash,
    before: Tensor | None,
) -> None:
    device = tokens.device
    check_tensor("tokens", tokens, shape=("T",), dtypes=INTEGERS)
    _check_state(tokens, ring, positions=positions, ngram=ngram, width=0)
    check_tensor("slots", slots, shape=("B",), dtypes=INTEGERS, device=device)
    requests = slots.shape[0]
    check_tensor("starts", starts, shape=(requests,), dtypes=INTEGERS, device=device)
    check_tensor("lengths", lengths, shape=(requests,), dtypes=INTEGERS, device=device)
    if before is not None:
        look_back = ngram.powers.shape[1] - 1
        check_tensor("before", before, shape=(requests, look_back), dtypes=INTEGERS, device=device)
    if requests == 0 and tokens.shape[0] > 0:
        raise ValueError(f"{tokens.shape[0]} tokens belong to no request: slots must not be empty.")


def _check_state(tokens: Tensor, ring: Tensor, *, positions: Tensor, ngram: NgramHash, width: int) -> None:
    device = tokens.device
    check_tensor("ngram.powers", ngram.powers, shape=("tables", "n"), dtypes=(torch.int64,), device=device)
    tables, order = ngram.powers.shape
    check_tensor("ngram.moduli", ngram.moduli, shape=(tables,), dtypes=(torch.int64,), device=device)
    check_tensor("ngram.offsets", ngram.offsets, shape=(tables,), dtypes=(torch.int64,), device=device)
    if order < 2:
        raise ValueError(f"ngram must be for n of at least 2, got {order!r}.")
    check_tensor("positions", positions, shape=(tokens.shape[0],), dtypes=INTEGERS, device=device)
    check_tensor("ring", ring, shape=("slots", "R"), dtypes=INTEGERS, device=device)
    columns, least = ring.shape[1], order - 1 + width
    if columns < least or columns & (columns - 1):
        raise ValueError(f"ring must have a power of two of at least {least} columns, got {columns}.")


def _check_slots(slots: Tensor, ring: Tensor) -> None:
    if slots.is_cuda:
        return  # reading values would wait for the GPU, which a CUDA graph does not allow
    if slots.numel() and not 0 <= int(slots.min()) <= int(slots.max()) < ring.shape[0]:
        raise IndexError(
            f"slots must be in [0, {ring.shape[0]}), got {int(slots.min())} to {int(slots.max())}."
        )
