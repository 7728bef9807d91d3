"""Penalties and `min_new_tokens` of requests that are decoded with drafts.

A verification computes the logits after several tokens of a request at once. SGLang applies to all of them
the penalties of the tokens before the first, and counts only the last of several accepted tokens afterwards.
Here each token's logits get the penalties of all tokens before it, by SGLang's own penalizers.
"""

import copy
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

# On SGLang's request: how many of its output tokens its penalizers have counted.
_COUNTED = "serval_counted_tokens"


def count_new_tokens(orchestrator: Any) -> None:
    """Count the output tokens of each request that its penalizers have not counted yet.

    Prefill has new penalizers for each chunk; a request that was retracted has output tokens by then.
    """
    batch = orchestrator.batch
    is_new = batch.forward_mode.is_extend()
    uncounted = []
    for request in batch.reqs:
        counted = 0 if is_new else getattr(request, _COUNTED, 0)
        uncounted.append(request.output_ids[counted:])
        setattr(request, _COUNTED, len(request.output_ids))
    for column in zip_longest(*uncounted):
        _count(orchestrator.penalizers.values(), column, orchestrator.device)


def _count(penalizers: Any, tokens: Sequence[int | None], device: Any) -> None:
    """Count one token of each request; None for none."""
    is_token = torch.tensor([token is not None for token in tokens])[:, None].to(device)
    ids = torch.tensor([token or 0 for token in tokens]).to(device)
    for penalizer in penalizers:
        before = copied_penalizer(penalizer)
        penalizer.cumulate_output_tokens(ids)
        # Penalizers count a token of every request.
        for name, state in _state(before).items():
            setattr(penalizer, name, torch.where(is_token, getattr(penalizer, name), state))


def copied_penalizer(penalizer: Any) -> Any:
    """Return a copy that counts on its own."""
    copied = copy.copy(penalizer)
    for name, state in _state(penalizer).items():
        setattr(copied, name, state.clone())
    return copied


def _state(penalizer: Any) -> dict[str, Tensor]:
    """Return the tensors of a penalizer by name; each has one row for each request."""
    return {name: value for name, value in vars(penalizer).items() if isinstance(value, Tensor)}


def penalise_chains(penalizers: Sequence[Any], logits: Tensor, tokens: Tensor) -> None:
    """Apply penalties to `logits` [B, W, V] in place, those after `tokens` [B, W] of each request.

    `penalizers` have counted the first of these tokens; afterwards they have counted all.
    """
    # Imported late: SGLang must not be imported before its plugins are loaded.
    from sglang.srt.sampling.penaltylib.repetition_penalty import apply_scaling_penalties

    prepared = [penalizer for penalizer in penalizers if penalizer.is_prepared()]
    for place in range(tokens.shape[1]):
        if place > 0:
            for penalizer in prepared:
                penalizer.cumulate_output_tokens(tokens[:, place].long())
        row = logits[:, place]
        # As in SamplingBatchInfo.update_penalties, to the bit.
        additive = torch.zeros(row.shape, dtype=torch.float32, device=row.device)
        for penalizer in prepared:
            if not penalizer.is_multiplicative:
                penalizer.apply(additive)
        row.add_(additive)
        for penalizer in prepared:
            if penalizer.is_multiplicative:
                apply_scaling_penalties(row, penalizer.get_scaling_penalties())
