"""The tokens that the n-gram hash of a batch looks back at, and the per-request state that carries them.

State is one row of the last ``n - 1`` tokens per request, oldest first, 0 where the sequence had not begun. A
batch is either *extend* (every request brings a run of tokens of any length, zero included) or *decode* (one
token each). Shapes depend on shapes only, never on values: every function can be captured in a CUDA graph.
"""

import torch
from torch import Tensor


def extend_windows(tokens: Tensor, history: Tensor, starts: Tensor) -> Tensor:
    """Each token of an extend batch with the ``n - 1`` before it.

    Args:
        tokens: integer [T], the runs of all requests one after another; rows behind the last run are padding.
        history: integer [B, n - 1], the tokens before each run, oldest first.
        starts: integer [B], ascending, where each run begins in ``tokens``. A run may be empty.

    Returns:
        int64 [T, n]: column 0 the token itself, column d the token d places before it.
    """
    look_back = history.shape[1]
    place = torch.arange(tokens.shape[0], device=tokens.device)
    # right=True: of several runs that begin at one place only the last is not empty.
    request = torch.searchsorted(starts.long(), place, right=True) - 1  # [T]
    offset = place - starts.long()[request]  # [T], position within the run
    distance = torch.arange(look_back + 1, device=tokens.device)
    in_run = distance <= offset[:, None]  # [T, n]
    from_run = tokens.long()[(place[:, None] - distance).clamp(min=0)]
    column = (look_back + offset[:, None] - distance).clamp(0, max(look_back - 1, 0))
    from_history = history.long()[request[:, None], column]
    return torch.where(in_run, from_run, from_history)


def extend_history(tokens: Tensor, history: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """The history [B, n - 1] after an extend batch: the last ``n - 1`` tokens of history and run together.

    Args:
        tokens, history, starts: as for :func:`extend_windows`.
        lengths: integer [B], tokens in each run.
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
    """Each request's new token [B] with the ``n - 1`` before it, newest first: int64 [B, n]."""
    return torch.cat((tokens.long()[:, None], history.long().flip(-1)), dim=-1)


def decode_history(windows: Tensor) -> Tensor:
    """The history [B, n - 1] after a decode step whose :func:`decode_windows` were ``windows`` [B, n]."""
    return windows[:, :-1].flip(-1)
