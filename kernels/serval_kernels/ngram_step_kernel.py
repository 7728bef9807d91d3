"""The Triton kernel of `ngram_step`: row ids of new tokens and update of the ring.

Shapes, dtypes and the meaning of the arguments are those of the operations there. Every address that depends
on a value is masked, so wrong values cause no device fault.
"""

from __future__ import annotations

from serval_kernels.launch import jit, tl


# Sizes that change from step to step must not trigger a recompilation.
@jit(do_not_specialize=["count", "requests", "search_steps"])
def step_kernel(  # type: ignore[no-untyped-def]
    tokens_ptr,
    ring_ptr,
    slots_ptr,
    positions_ptr,
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
    RING: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_BEFORE: tl.constexpr,
):
    """Programs below `requests` process one request each: the ids of its first tokens (all `WIDTH`, or n - 1
    of a run), which look back into the ring, and then the ring itself, so that no program reads what another
    has overwritten. The others process `BLOCK` tokens each, but none that look back beyond their run."""
    program = tl.program_id(0)
    if program < requests:
        if WIDTH > 0:
            _take_pass(
                program.to(tl.int64), tokens_ptr, ring_ptr, slots_ptr, positions_ptr, powers_ptr, moduli_ptr,
                offsets_ptr, out_ptr, slot_count, eos_token_id, ORDER, TABLES, TABLE_BLOCK, RING, WIDTH, HEAD,
            )  # fmt: skip
        else:
            _take_run(
                program.to(tl.int64), tokens_ptr, ring_ptr, slots_ptr, positions_ptr, starts_ptr, lengths_ptr,
                before_ptr, powers_ptr, moduli_ptr, offsets_ptr, out_ptr, count, requests, slot_count,
                eos_token_id, ORDER, TABLES, TABLE_BLOCK, RING, HEAD, HAS_BEFORE,
            )  # fmt: skip
    elif WIDTH == 0:
        _take_block(
            (program - requests).to(tl.int64), tokens_ptr, starts_ptr, powers_ptr, moduli_ptr, offsets_ptr,
            out_ptr, count, requests, eos_token_id, search_steps, ORDER, TABLES, TABLE_BLOCK, BLOCK,
        )  # fmt: skip


@jit()
def _take_pass(  # type: ignore[no-untyped-def]
    request,
    tokens_ptr,
    ring_ptr,
    slots_ptr,
    positions_ptr,
    powers_ptr,
    moduli_ptr,
    offsets_ptr,
    out_ptr,
    slot_count,
    eos_token_id,
    ORDER: tl.constexpr,
    TABLES: tl.constexpr,
    TABLE_BLOCK: tl.constexpr,
    RING: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD: tl.constexpr,
):
    """Decode or verify one request."""
    slot = tl.load(slots_ptr + request).to(tl.int64)
    known_slot = (slot >= 0) & (slot < slot_count)
    ring_row = ring_ptr + slot * RING
    first = tl.load(positions_ptr + request * WIDTH).to(tl.int64)
    offset = tl.arange(0, HEAD).to(tl.int64)
    mine = offset < WIDTH
    token = _store_row_ids(
        tokens_ptr, request * WIDTH + offset, offset, mine, ring_row, known_slot, first, tokens_ptr, False,
        powers_ptr, moduli_ptr, offsets_ptr, out_ptr, eos_token_id, ORDER, TABLES, TABLE_BLOCK, RING,
        LOOKS_BACK=True, HAS_BEFORE=False,
    )  # fmt: skip
    # The ring has room for the pass and what it looks back at, so no column written here was read above.
    column = (first + offset) & (RING - 1)
    tl.store(ring_row + column, token.to(ring_ptr.dtype.element_ty), mask=mine & known_slot)


@jit()
def _take_run(  # type: ignore[no-untyped-def]
    request,
    tokens_ptr,
    ring_ptr,
    slots_ptr,
    positions_ptr,
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
    RING: tl.constexpr,
    HEAD: tl.constexpr,
    HAS_BEFORE: tl.constexpr,
):
    """Process the first n - 1 tokens of one request's run, and store its last n - 1."""
    slot = tl.load(slots_ptr + request).to(tl.int64)
    known_slot = (slot >= 0) & (slot < slot_count)
    ring_row = ring_ptr + slot * RING
    before_row = before_ptr
    given = False
    if HAS_BEFORE:
        before_row = before_ptr + request * (ORDER - 1)
        given = tl.load(before_row) != -1  # FROM_RING
    start = tl.load(starts_ptr + request).to(tl.int64)
    length = tl.load(lengths_ptr + request).to(tl.int64)
    end = tl.load(starts_ptr + request + 1, mask=request + 1 < requests, other=count).to(tl.int64)
    begins = (length > 0) & (start >= 0) & (start < count)
    first = tl.load(positions_ptr + start, mask=begins, other=0).to(tl.int64)
    offset = tl.arange(0, HEAD).to(tl.int64)
    place = start + offset
    mine = (offset < ORDER - 1) & (place >= 0) & (place < end) & (place < count)
    _store_row_ids(
        tokens_ptr, place, offset, mine, ring_row, known_slot, first, before_row, given,
        powers_ptr, moduli_ptr, offsets_ptr, out_ptr, eos_token_id, ORDER, TABLES, TABLE_BLOCK, RING,
        LOOKS_BACK=True, HAS_BEFORE=HAS_BEFORE,
    )  # fmt: skip

    # The end of "before, then run" is stored: n - 1 tokens from place `length` on.
    stored = offset < ORDER - 1
    joined = length + offset
    kept = stored & (joined >= 0) & (joined < ORDER - 1)
    last = _tokens_before(
        ORDER - 1 - joined, kept, ring_row, known_slot, first, before_row, given, ORDER, RING, HAS_BEFORE
    )
    taken = start + joined - (ORDER - 1)
    in_run = stored & (joined >= ORDER - 1) & (taken >= 0) & (taken < count)
    last += tl.load(tokens_ptr + taken, mask=in_run, other=0).to(tl.int64)
    column = (first + joined - (ORDER - 1)) & (RING - 1)
    # All threads must have read the ring before any writes to it.
    tl.debug_barrier()
    tl.store(ring_row + column, last.to(ring_ptr.dtype.element_ty), mask=stored & known_slot & begins)


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
        tokens_ptr, place, offset, mine, tokens_ptr, False, 0, tokens_ptr, False,
        powers_ptr, moduli_ptr, offsets_ptr, out_ptr, eos_token_id, ORDER, TABLES, TABLE_BLOCK, RING=1,
        LOOKS_BACK=False, HAS_BEFORE=False,
    )  # fmt: skip


@jit()
def _store_row_ids(  # type: ignore[no-untyped-def]
    tokens_ptr,
    place,
    offset,
    mine,
    ring_row,
    known_slot,
    first,
    before_row,
    given,
    powers_ptr,
    moduli_ptr,
    offsets_ptr,
    out_ptr,
    eos_token_id,
    ORDER: tl.constexpr,
    TABLES: tl.constexpr,
    TABLE_BLOCK: tl.constexpr,
    RING: tl.constexpr,
    LOOKS_BACK: tl.constexpr,
    HAS_BEFORE: tl.constexpr,
):
    """Store the row ids of the tokens at `place`, `offset` places into their runs, where `mine` is true, and
    return these tokens. `LOOKS_BACK` tells if they may need tokens from before their runs."""
    table = tl.arange(0, TABLE_BLOCK)
    real = table < TABLES
    token = tl.load(tokens_ptr + place, mask=mine, other=0).to(tl.int64)
    total = token[:, None] * tl.load(powers_ptr + table * ORDER, mask=real, other=0)[None, :]
    inside = mine
    for distance in tl.static_range(1, ORDER):
        from_run = mine & (offset >= distance)
        earlier = tl.load(tokens_ptr + place - distance, mask=from_run, other=0).to(tl.int64)
        if LOOKS_BACK:
            earlier += _tokens_before(
                distance - offset, mine & (offset < distance), ring_row, known_slot, first, before_row, given,
                ORDER, RING, HAS_BEFORE,
            )  # fmt: skip
        inside = inside & (earlier != eos_token_id)
        power = tl.load(powers_ptr + table * ORDER + distance, mask=real, other=0)
        total += tl.where(inside, earlier, 0)[:, None] * power[None, :]
    modulus = tl.load(moduli_ptr + table, mask=real, other=1)[None, :]
    remainder = total % modulus
    # Triton's remainder has the sign of the dividend, so a token below 0 could make it negative.
    remainder = tl.where(remainder < 0, remainder + modulus, remainder)
    rows = remainder + tl.load(offsets_ptr + table, mask=real, other=0)[None, :]
    tl.store(out_ptr + place[:, None] * TABLES + table[None, :], rows, mask=mine[:, None] & real[None, :])
    return token


@jit()
def _tokens_before(  # type: ignore[no-untyped-def]
    distance,
    wanted,
    ring_row,
    known_slot,
    first,
    before_row,
    given,
    ORDER: tl.constexpr,
    RING: tl.constexpr,
    HAS_BEFORE: tl.constexpr,
):
    """Return the tokens `distance` places before position `first` where `wanted` is true, else 0: from the
    caller's `before_row` if it is `given`, else from the ring."""
    position = first - distance
    from_ring = wanted & (position >= 0) & known_slot
    if HAS_BEFORE:
        from_ring = from_ring & ~given
    found = tl.load(ring_row + (position & (RING - 1)), mask=from_ring, other=0).to(tl.int64)
    if HAS_BEFORE:
        from_caller = wanted & given & (distance < ORDER)
        found += tl.load(before_row + ORDER - 1 - distance, mask=from_caller, other=0).to(tl.int64)
    return found
