"""N-gram row ids of new tokens and update of the state of each sequence, in one launch.

The state is `history` [slots, n - 1]: the last tokens of each request slot, oldest first, 0 before the
sequence began. A step reads the rows of its requests, computes the row ids of every new token, and writes the
last tokens back to the same rows. The launch depends on shapes only, never on values, so it can be captured
in a CUDA graph: copy the next step's tokens and slots into the captured tensors and replay.

If a slot occurs twice in a batch, it keeps the history of one of the two (padding of CUDA graphs goes to a
slot that no request owns). On a GPU a slot outside the state reads as empty and is not written, since raising
would need a copy to the host; on a CPU it raises `IndexError`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from serval_kernels.checks import INTEGERS, check_tensor
from serval_kernels.launch import jit, launch, power_of_two, runs_on_triton, tl
from serval_kernels.ngram_context import decode_history, decode_windows, extend_history, extend_windows
from serval_kernels.ngram_ids import NgramHash, ngram_ids

_BLOCK = 32  # tokens per program; times 16 tables, four elements for each thread of four warps


def decode_step(
    tokens: Tensor, history: Tensor, *, slots: Tensor, ngram: NgramHash, eos_token_id: int
) -> Tensor:
    """Process one new token for each request; return rows of the stacked tables, int64 [B, tables].

    - `tokens` int32 or int64 [B]
    - `history` int32 or int64 [slots, n - 1]: updated in place
    - `slots` int32 or int64 [B]: the row of `history` of each request
    - `ngram`: the constants of the hash, on the device of `tokens`
    - `eos_token_id`: ends the look-back

    Raises `TypeError` if a dtype is none of the above, and `ValueError` if shapes or devices do not match,
    `history` is for another n, or a tensor is not contiguous.
    """
    compute = decode_step_triton if runs_on_triton(tokens) else decode_step_reference
    return compute(tokens, history, slots=slots, ngram=ngram, eos_token_id=eos_token_id)


def extend_step(
    tokens: Tensor,
    history: Tensor,
    *,
    slots: Tensor,
    starts: Tensor,
    lengths: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    before: Tensor | None = None,
) -> Tensor:
    """Process a run of new tokens for each request; return rows of the stacked tables, int64 [T, tables].

    - `tokens` int32 or int64 [T]: the runs one after another; rows after the last run are padding, whose ids
      are meaningless but valid
    - `history`, `slots`, `ngram`, `eos_token_id`: as for `decode_step`
    - `starts` int32 or int64 [B], ascending from 0: where each run begins in `tokens`; a run may be empty
    - `lengths` int32 or int64 [B]: tokens in each run
    - `before` int32 or int64 [B, n - 1]: the tokens before each run if the caller knows them (a prefix found
      in a cache); None reads them from `history`

    Raises as `decode_step` does, and `ValueError` if there are tokens but no request.
    """
    compute = extend_step_triton if runs_on_triton(tokens) else extend_step_reference
    return compute(
        tokens,
        history,
        slots=slots,
        starts=starts,
        lengths=lengths,
        ngram=ngram,
        eos_token_id=eos_token_id,
        before=before,
    )


def decode_step_reference(
    tokens: Tensor, history: Tensor, *, slots: Tensor, ngram: NgramHash, eos_token_id: int
) -> Tensor:
    """`decode_step` in torch."""
    _check_decode(tokens, history, slots=slots, ngram=ngram)
    _check_slots(slots, history)
    windows = decode_windows(tokens, history[slots.long()])
    history[slots.long()] = decode_history(windows).to(history.dtype)
    return ngram_ids(windows, ngram, eos_token_id=eos_token_id)


def extend_step_reference(
    tokens: Tensor,
    history: Tensor,
    *,
    slots: Tensor,
    starts: Tensor,
    lengths: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    before: Tensor | None = None,
) -> Tensor:
    """`extend_step` in torch."""
    _check_extend(tokens, history, slots=slots, starts=starts, lengths=lengths, ngram=ngram, before=before)
    _check_slots(slots, history)
    earlier = history[slots.long()] if before is None else before
    windows = extend_windows(tokens, earlier, starts)
    history[slots.long()] = extend_history(tokens, earlier, starts, lengths).to(history.dtype)
    return ngram_ids(windows, ngram, eos_token_id=eos_token_id)


def decode_step_triton(
    tokens: Tensor, history: Tensor, *, slots: Tensor, ngram: NgramHash, eos_token_id: int
) -> Tensor:
    """`decode_step` in one launch."""
    _check_decode(tokens, history, slots=slots, ngram=ngram)
    return _launch_step(
        tokens,
        history,
        slots=slots,
        ngram=ngram,
        eos_token_id=eos_token_id,
        starts=None,
        lengths=None,
        before=None,
    )


def extend_step_triton(
    tokens: Tensor,
    history: Tensor,
    *,
    slots: Tensor,
    starts: Tensor,
    lengths: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    before: Tensor | None = None,
) -> Tensor:
    """`extend_step` in one launch."""
    _check_extend(tokens, history, slots=slots, starts=starts, lengths=lengths, ngram=ngram, before=before)
    return _launch_step(
        tokens,
        history,
        slots=slots,
        ngram=ngram,
        eos_token_id=eos_token_id,
        starts=starts,
        lengths=lengths,
        before=before,
    )


def _launch_step(
    tokens: Tensor,
    history: Tensor,
    *,
    slots: Tensor,
    ngram: NgramHash,
    eos_token_id: int,
    starts: Tensor | None,
    lengths: Tensor | None,
    before: Tensor | None,
) -> Tensor:
    count, requests = tokens.shape[0], slots.shape[0]
    tables, order = ngram.powers.shape
    row_ids = torch.empty(count, tables, dtype=torch.int64, device=tokens.device)
    blocks = 0 if starts is None else -(-count // _BLOCK)
    if requests + blocks == 0:
        return row_ids
    launch(
        _step_kernel,
        (requests + blocks,),
        tokens.device,
        tokens,
        history,
        slots,
        starts,
        lengths,
        before,
        *ngram,
        row_ids,
        count,
        requests,
        history.shape[0],
        eos_token_id,
        requests.bit_length(),
        ORDER=order,
        TABLES=tables,
        TABLE_BLOCK=power_of_two(tables),
        HEAD=power_of_two(order - 1),
        BLOCK=_BLOCK,
        RAGGED=starts is not None,
        HAS_BEFORE=before is not None,
        num_warps=4,
    )
    return row_ids


# Sizes that change from step to step must not trigger a recompilation.
@jit(do_not_specialize=["count", "requests", "search_steps"])
def _step_kernel(  # type: ignore[no-untyped-def]
    tokens_ptr,
    history_ptr,
    slots_ptr,
    starts_ptr,
    lengths_ptr,
    before_ptr,
    powers_ptr,
    moduli_ptr,
    offsets_ptr,
    out_ptr,
    count,
    requests,
    slot_count,
    eos_token_id,
    search_steps,
    ORDER: tl.constexpr,
    TABLES: tl.constexpr,
    TABLE_BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    RAGGED: tl.constexpr,
    HAS_BEFORE: tl.constexpr,
):
    """Programs below `requests` process one request each: the ids of its first n - 1 tokens, which look back
    into the history, and then the history itself, so that no program reads what another has overwritten. The
    others process `BLOCK` tokens each, skipping those that look back beyond their own run."""
    program = tl.program_id(0)
    if program < requests:
        _take_request(
            program.to(tl.int64), tokens_ptr, history_ptr, slots_ptr, starts_ptr, lengths_ptr, before_ptr,
            powers_ptr, moduli_ptr, offsets_ptr, out_ptr, count, requests, slot_count, eos_token_id,
            ORDER, TABLES, TABLE_BLOCK, HEAD, RAGGED, HAS_BEFORE,
        )  # fmt: skip
    elif RAGGED:
        _take_block(
            (program - requests).to(tl.int64), tokens_ptr, starts_ptr, powers_ptr, moduli_ptr, offsets_ptr,
            out_ptr, count, requests, eos_token_id, search_steps, ORDER, TABLES, TABLE_BLOCK, BLOCK,
        )  # fmt: skip


@jit()
def _take_request(  # type: ignore[no-untyped-def]
    request,
    tokens_ptr,
    history_ptr,
    slots_ptr,
    starts_ptr,
    lengths_ptr,
    before_ptr,
    powers_ptr,
    moduli_ptr,
    offsets_ptr,
    out_ptr,
    count,
    requests,
    slot_count,
    eos_token_id,
    ORDER: tl.constexpr,
    TABLES: tl.constexpr,
    TABLE_BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
    RAGGED: tl.constexpr,
    HAS_BEFORE: tl.constexpr,
):
    slot = tl.load(slots_ptr + request).to(tl.int64)
    known_slot = (slot >= 0) & (slot < slot_count)
    history_row = history_ptr + slot * (ORDER - 1)
    if HAS_BEFORE:
        before_row = before_ptr + request * (ORDER - 1)
        known_before = request >= 0
    else:
        before_row = history_row
        known_before = known_slot
    if RAGGED:
        start = tl.load(starts_ptr + request).to(tl.int64)
        length = tl.load(lengths_ptr + request).to(tl.int64)
        end = tl.load(starts_ptr + request + 1, mask=request + 1 < requests, other=count).to(tl.int64)
    else:
        start = request
        length = tl.full([], 1, tl.int64)
        end = request + 1
    offset = tl.arange(0, HEAD).to(tl.int64)
    place = start + offset
    mine = (offset < ORDER - 1) & (place >= 0) & (place < end) & (place < count)
    _store_row_ids(
        tokens_ptr, place, offset, mine, before_row, known_before, powers_ptr, moduli_ptr, offsets_ptr,
        out_ptr, eos_token_id, ORDER, TABLES, TABLE_BLOCK,
    )  # fmt: skip

    # The new history is the end of "history, then run": its column c is at position `length + c`.
    column = offset < ORDER - 1
    joined = length + offset
    kept = column & (joined >= 0) & (joined < ORDER - 1) & known_before
    taken = start + joined - (ORDER - 1)
    in_run = column & (joined >= ORDER - 1) & (taken >= 0) & (taken < count)
    updated = tl.load(before_row + joined, mask=kept, other=0).to(tl.int64)
    updated += tl.load(tokens_ptr + taken, mask=in_run, other=0).to(tl.int64)
    # All threads must have read the old history before any writes the new one.
    tl.debug_barrier()
    tl.store(history_row + offset, updated.to(history_ptr.dtype.element_ty), mask=column & known_slot)


@jit()
def _take_block(  # type: ignore[no-untyped-def]
    block,
    tokens_ptr,
    starts_ptr,
    powers_ptr,
    moduli_ptr,
    offsets_ptr,
    out_ptr,
    count,
    requests,
    eos_token_id,
    search_steps,
    ORDER: tl.constexpr,
    TABLES: tl.constexpr,
    TABLE_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = block * BLOCK + tl.arange(0, BLOCK)
    # Binary search: number of requests that start at or before each place.
    low = tl.zeros([BLOCK], tl.int64)
    high = low + requests
    for _ in range(search_steps):
        middle = (low + high) // 2
        unsettled = low < high
        reached = tl.load(starts_ptr + middle, mask=unsettled, other=0).to(tl.int64) <= place
        low = tl.where(unsettled & reached, middle + 1, low)
        high = tl.where(unsettled & ~reached, middle, high)
    start = tl.load(starts_ptr + low - 1, mask=low > 0, other=0).to(tl.int64)
    offset = place - start
    # A token before the first run belongs to no request, but must still get ids.
    mine = ((offset >= ORDER - 1) | (low == 0)) & (place < count)
    _store_row_ids(
        tokens_ptr, place, offset, mine, tokens_ptr, False, powers_ptr, moduli_ptr, offsets_ptr, out_ptr,
        eos_token_id, ORDER, TABLES, TABLE_BLOCK,
    )  # fmt: skip


@jit()
def _store_row_ids(  # type: ignore[no-untyped-def]
    tokens_ptr,
    place,
    offset,
    mine,
    before_row,
    known_before,
    powers_ptr,
    moduli_ptr,
    offsets_ptr,
    out_ptr,
    eos_token_id,
    ORDER: tl.constexpr,
    TABLES: tl.constexpr,
    TABLE_BLOCK: tl.constexpr,
):
    """Store the row ids of the tokens at `place`, `offset` places into their runs, where `mine` is true."""
    table = tl.arange(0, TABLE_BLOCK)
    real = table < TABLES
    token = tl.load(tokens_ptr + place, mask=mine, other=0).to(tl.int64)
    total = token[:, None] * tl.load(powers_ptr + table * ORDER, mask=real, other=0)[None, :]
    inside = mine
    for distance in tl.static_range(1, ORDER):
        from_run = mine & (offset >= distance)
        earlier = tl.load(tokens_ptr + place - distance, mask=from_run, other=0).to(tl.int64)
        column = ORDER - 1 + offset - distance
        from_before = mine & (offset < distance) & (column >= 0) & known_before
        earlier += tl.load(before_row + column, mask=from_before, other=0).to(tl.int64)
        inside = inside & (earlier != eos_token_id)
        power = tl.load(powers_ptr + table * ORDER + distance, mask=real, other=0)
        total += tl.where(inside, earlier, 0)[:, None] * power[None, :]
    modulus = tl.load(moduli_ptr + table, mask=real, other=1)[None, :]
    remainder = total % modulus
    # Triton's remainder has the sign of the dividend, so a token below 0 could make it negative.
    remainder = tl.where(remainder < 0, remainder + modulus, remainder)
    rows = remainder + tl.load(offsets_ptr + table, mask=real, other=0)[None, :]
    tl.store(out_ptr + place[:, None] * TABLES + table[None, :], rows, mask=mine[:, None] & real[None, :])


def _check_decode(tokens: Tensor, history: Tensor, *, slots: Tensor, ngram: NgramHash) -> None:
    check_tensor("tokens", tokens, shape=("B",), dtypes=INTEGERS)
    _check_state(tokens, history, ngram)
    check_tensor("slots", slots, shape=(tokens.shape[0],), dtypes=INTEGERS, device=tokens.device)


def _check_extend(
    tokens: Tensor,
    history: Tensor,
    *,
    slots: Tensor,
    starts: Tensor,
    lengths: Tensor,
    ngram: NgramHash,
    before: Tensor | None,
) -> None:
    device = tokens.device
    check_tensor("tokens", tokens, shape=("T",), dtypes=INTEGERS)
    _check_state(tokens, history, ngram)
    check_tensor("slots", slots, shape=("B",), dtypes=INTEGERS, device=device)
    requests = slots.shape[0]
    check_tensor("starts", starts, shape=(requests,), dtypes=INTEGERS, device=device)
    check_tensor("lengths", lengths, shape=(requests,), dtypes=INTEGERS, device=device)
    if before is not None:
        check_tensor("before", before, shape=(requests, history.shape[1]), dtypes=INTEGERS, device=device)
    if requests == 0 and tokens.shape[0] > 0:
        raise ValueError(f"{tokens.shape[0]} tokens belong to no request: slots must not be empty.")


def _check_state(tokens: Tensor, history: Tensor, ngram: NgramHash) -> None:
    device = tokens.device
    check_tensor("ngram.powers", ngram.powers, shape=("tables", "n"), dtypes=(torch.int64,), device=device)
    tables, order = ngram.powers.shape
    check_tensor("ngram.moduli", ngram.moduli, shape=(tables,), dtypes=(torch.int64,), device=device)
    check_tensor("ngram.offsets", ngram.offsets, shape=(tables,), dtypes=(torch.int64,), device=device)
    if order < 2:
        raise ValueError(f"ngram must be for n of at least 2, got {order!r}.")
    check_tensor("history", history, shape=("slots", order - 1), dtypes=INTEGERS, device=device)


def _check_slots(slots: Tensor, history: Tensor) -> None:
    if slots.is_cuda:
        return  # reading values would wait for the GPU, which a CUDA graph does not allow
    if slots.numel() and not 0 <= int(slots.min()) <= int(slots.max()) < history.shape[0]:
        raise IndexError(
            f"slots must be in [0, {history.shape[0]}), got {int(slots.min())} to {int(slots.max())}."
        )
