"""The tokens that the n-gram hash of a batch looks back at, and the per-request state that carries them.

The state is a ring: one row per request slot with R columns, R a power of two, in which the token at position
p of a sequence is in column p mod R. Reads are told the position where new tokens begin, so a token that was
written there or behind it by an earlier pass, such as a draft that was then rejected, is never read and needs
no rollback. Output shapes depend on input shapes only, never on values, so every function can be captured in
a CUDA graph.
"""

import torch
from torch import Tensor

# First entry of a row of `before` whose request continues from the ring instead.
FROM_RING = -1


def ring_columns(*, order: int, width: int) -> int:
    """Return R for n-grams of `order` n and passes of up to `width` tokens: the smallest power of two with
    room for a pass and the n - 1 tokens before it, so that no write of a pass touches what it reads."""
    return 1 << (order - 1 + width - 1).bit_length()


def read_ring(ring: Tensor, slots: Tensor, first: Tensor, *, look_back: int) -> Tensor:
    """Return the tokens at the `look_back` positions before `first`, oldest first, 0 before the sequence.

    - `ring` integer [slots, R]
    - `slots` integer [B]: the row of each request
    - `first` integer [B]: the position of each request's first new token

    The result is int64 [B, look_back].
    """
    positions = first.long()[:, None] - torch.arange(look_back, 0, -1, device=first.device)
    found = ring[slots.long()[:, None], _columns(positions, ring)]
    return torch.where(positions >= 0, found, 0).long()


def write_ring(
    ring: Tensor, slots: Tensor, first: Tensor, tokens: Tensor, *, written: Tensor | None = None
) -> None:
    """Store `tokens` integer [B, w] at the positions from `first` on, in place.

    `ring`, `slots` and `first` are as for `read_ring`; `written` bool [B] is False for requests whose row is
    to stay as it is, None writes all. A position before the sequence may be written: its column is read only
    after another token has been stored there.
    """
    positions = first.long()[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
    where = (slots.long()[:, None], _columns(positions, ring))
    values = tokens.to(ring.dtype)
    ring[where] = values if written is None else torch.where(written[:, None], values, ring[where])


def decode_windows(tokens: Tensor, before: Tensor) -> Tensor:
    """Return each token of a batch with w tokens a request, with the `n - 1` before it.

    `tokens` integer [B, w] and `before` integer [B, n - 1], oldest first, give int64 [B * w, n]: column 0 is
    the token itself, column d the token d places before it.
    """
    joined = torch.cat((before.long(), tokens.long()), dim=1)
    order = before.shape[1] + 1
    return joined.unfold(1, order, 1).flip(-1).reshape(-1, order)


def extend_windows(tokens: Tensor, before: Tensor, starts: Tensor) -> Tensor:
    """Return each token of a batch of runs with the `n - 1` before it.

    - `tokens` integer [T]: the runs of all requests one after another; rows after the last run are padding
    - `before` integer [B, n - 1]: the tokens before each run, oldest first
    - `starts` integer [B], ascending: where each run begins in `tokens`; a run may be empty

    The result is int64 [T, n], as of `decode_windows`.
    """
    look_back = before.shape[1]
    place = torch.arange(tokens.shape[0], device=tokens.device)
    # right=True: if several runs begin at one place, only the last is not empty.
    request = torch.searchsorted(starts.long(), place, right=True) - 1  # [T]
    offset = place - starts.long()[request]  # [T], place within the run
    distance = torch.arange(look_back + 1, device=tokens.device)
    in_run = distance <= offset[:, None]  # [T, n]
    from_run = tokens.long()[(place[:, None] - distance).clamp(min=0)]
    column = (look_back + offset[:, None] - distance).clamp(0, max(look_back - 1, 0))
    from_before = before.long()[request[:, None], column]
    return torch.where(in_run, from_run, from_before)


def last_tokens(tokens: Tensor, before: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Return the last `n - 1` tokens of "before, then run" of each request, oldest first: int64 [B, n - 1].

    `tokens` [T], T > 0, `before` and `starts` are as for `extend_windows`; `lengths` integer [B] counts the
    tokens of each run.
    """
    look_back = before.shape[1]
    # Place within "before, then run" of the last n - 1 tokens.
    joined = lengths.long()[:, None] + torch.arange(look_back, device=before.device)  # [B, n - 1]
    from_before = before.long().gather(1, joined.clamp(0, look_back - 1))
    in_run = (starts.long()[:, None] + joined - look_back).clamp(0, tokens.shape[0] - 1)
    return torch.where(joined < look_back, from_before, tokens.long()[in_run])


def _columns(positions: Tensor, ring: Tensor) -> Tensor:
    return positions & (ring.shape[1] - 1)
