"""The tokens that the n-gram hash of a batch looks back at, and the per-request state that carries them.

The state is one row per request with its last `n - 1` tokens, oldest first, 0 before the sequence began. A
batch is either *extend* (each request brings a run of zero or more tokens) or *decode* (one token each).
Output shapes depend on input shapes only, never on values, so every function can be captured in a CUDA graph.
"""

import torch
from torch import Tensor


def extend_windows(tokens: Tensor, history: Tensor, starts: Tensor) -> Tensor:
    """Return each token of an extend batch with the `n - 1` before it.

    - `tokens` integer [T]: the runs of all requests one after another; rows after the last run are padding
    - `history` integer [B, n - 1]: the tokens before each run, oldest first
    - `starts` integer [B], ascending: where each run begins in `tokens`; a run may be empty

    The result is int64 [T, n]: column 0 is the token itself, column d the token d places before it.
    """
    look_back = history.shape[1]
    place = torch.arange(tokens.shape[0], device=tokens.device)
    # right=True: if several runs begin at one place, only the last is not empty.
    request = torch.searchsorted(starts.long(), place, right=True) - 1  # [T]
    offset = place - starts.long()[request]  # [T], position within the run
    distance = torch.arange(look_back + 1, device=tokens.device)
    in_run = distance <= offset[:, None]  # [T, n]
    from_run = tokens.long()[(place[:, None] - distance).clamp(min=0)]
    column = (look_back + offset[:, None] - distance).clamp(0, max(look_back - 1, 0))
    from_history = history.long()[request[:, None], column]
    return torch.where(in_run, from_run, from_history)


def extend_history(tokens: Tensor, history: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Return the history [B, n - 1] after an extend batch: the last `n - 1` tokens of history and run.

    `tokens`, `history` and `starts` are as for `extend_windows`; `lengths` integer [B] counts the tokens of
    each run.
    """
    if tokens.shape[0] == 0:
        return history.long()
    look_back = history.shape[1]
    # Place within "history then run" of the last n - 1 tokens.
    joined = lengths.long()[:, None] + torch.arange(look_back, device=history.device)  # [B, n - 1]
    from_history = history.long().gather(1, joined.clamp(max=look_back - 1))
    in_run = (starts.long()[:, None] + joined - look_back).clamp(0, tokens.shape[0] - 1)
    return torch.where(joined < look_back, from_history, tokens.long()[in_run])


def decode_windows(tokens: Tensor, history: Tensor) -> Tensor:
    """Return each request's new token [B] with the `n - 1` before it, newest first: int64 [B, n]."""
    return torch.cat((tokens.long()[:, None], history.long().flip(-1)), dim=-1)


def decode_history(windows: Tensor) -> Tensor:
    """Return the history [B, n - 1] after a decode step whose `decode_windows` were `windows` [B, n]."""
    return windows[:, :-1].flip(-1)
