"""Speculative greedy decoding by its definition, without any cache: what it drafts, and what is right.

A wrong draft costs time but no correctness, so text alone does not show that an engine drafts as the
checkpoint defines. The numbers of verify passes and of right drafts do: an engine must have the same.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from serval_sglang.reference.model import ReferenceModel
from serval_sglang.reference.mtp import MtpLayer

# Maps the tokens so far and hidden states [T - 1, H] of all but the last to the drafts behind them.
Drafter = Callable[[Sequence[int], Tensor], Sequence[int]]


class SpeculativeRun(NamedTuple):
    """The text and how it came about."""

    tokens: list[int]  # as greedy decoding without drafts gives
    accepted: list[int]  # right drafts of each verify pass; drafts behind the end of the text count as well
    steps: int  # drafts in each verify pass

    @property
    def passes(self) -> int:
        """Verify passes; the prefill, which gives the first token, is none."""
        return len(self.accepted)

    @property
    def right(self) -> int:
        """Right drafts in all passes."""
        return sum(self.accepted)

    @property
    def right_by_position(self) -> list[int]:
        """Passes in which the first, second, ... draft was right, with all those before it."""
        return [sum(count > position for count in self.accepted) for position in range(self.steps)]


@torch.no_grad()
def decode_speculatively(
    model: ReferenceModel,
    prompt: Sequence[int],
    drafter: Drafter,
    *,
    steps: int,
    max_new_tokens: int,
    stop_tokens: Collection[int] | None = None,
) -> SpeculativeRun:
    """Continue `prompt` greedily; `drafter` gives `steps` drafts for each verify pass.

    The text ends after `max_new_tokens` or with the first of `stop_tokens`, by default the end of sequence.
    """
    stops = {model.config.eos_token_id} if stop_tokens is None else stop_tokens
    sequence = list(prompt)
    logits, hidden = _run(model, sequence)
    sequence.append(int(logits[-1].argmax()))
    accepted: list[int] = []
    while not _ends(sequence[len(prompt) :], max_new_tokens, stops):
        drafts = list(drafter(sequence, hidden))[:steps]
        logits, hidden = _run(model, [*sequence, *drafts])
        chosen = logits[len(sequence) - 1 :].argmax(-1).tolist()
        right = _common_prefix(drafts, chosen)
        hidden = hidden[: len(sequence) + right]
        sequence += chosen[: right + 1]
        accepted.append(right)
    return SpeculativeRun(_cut(sequence[len(prompt) :], max_new_tokens, stops), accepted, steps)


def mtp_drafter(model: ReferenceModel, layer: MtpLayer, *, steps: int) -> Drafter:
    """Return the drafter that a checkpoint defines: `steps` tokens by its MTP layer and the model's head."""

    def draft(sequence: Sequence[int], hidden: Tensor) -> list[int]:
        device = hidden.device
        tokens, states = torch.tensor([sequence[1:]], device=device), hidden[None]
        drafts: list[int] = []
        for _ in range(steps):
            g = layer(tokens, states)[:, -1:]
            drafts.append(int(model.lm_head(g[0, 0]).argmax()))
            tokens = torch.cat((tokens, torch.tensor([[drafts[-1]]], device=device)), dim=1)
            states = torch.cat((states, g), dim=1)
        return drafts

    return draft


def _run(model: ReferenceModel, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return logits [T, V] and hidden states [T, H]."""
    output = model.run(torch.tensor([list(tokens)], device=model.lm_head.weight.device))
    return output.logits[0], output.hidden_states[0]


def _common_prefix(drafts: Sequence[int], chosen: Sequence[int]) -> int:
    for place, draft in enumerate(drafts):
        if draft != chosen[place]:
            return place
    return len(drafts)


def _ends(text: Sequence[int], limit: int, stops: Collection[int]) -> bool:
    return len(text) >= limit or any(token in stops for token in text)


def _cut(text: list[int], limit: int, stops: Collection[int]) -> list[int]:
    end = next((place + 1 for place, token in enumerate(text) if token in stops), len(text))
    return text[: min(end, limit)]
