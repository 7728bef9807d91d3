"""Tokens at a temperature above 0 are distributed as the target says, whatever the drafts."""

import torch
from torch import Tensor

from serval_sglang.cpu_compat.draft_sampling import sample_chains, verify_uses_greedy

TOKENS = 5


def sample(target: Tensor, candidates: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return the tokens after each token [B, W] and how many drafts were accepted [B]."""
    requests, width = candidates.shape
    generator = torch.Generator().manual_seed(seed)
    predicts = torch.full((requests * width,), -1, dtype=torch.int32)
    accepted = torch.zeros(requests, dtype=torch.int32)
    sample_chains(
        predicts=predicts,
        accept_index=torch.zeros(requests, width, dtype=torch.int32),
        accept_token_num=accepted,
        candidates=candidates,
        uniform_samples=torch.rand(requests, width, generator=generator),
        uniform_samples_for_final_sampling=torch.rand(requests, generator=generator),
        target_probs=target.expand(requests, width, -1).float(),
    )
    return predicts.view(requests, width), accepted


def test_sample_chains_keeps_the_distribution_of_the_target() -> None:
    """Chi-square with 4 degrees of freedom exceeds 18.5 with a probability of 0.001; the seed is fixed."""
    draws = 20_000
    target = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3])
    for draft in range(TOKENS):
        candidates = torch.tensor([[0, draft]]).expand(draws, 2)
        drawn, accepted = sample(target, candidates, seed=draft)
        counts = torch.bincount(drawn[:, 0], minlength=TOKENS).float()
        expected = target * draws
        assert counts[2] == 0
        assert float(((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()) < 18.5
        # Accepted as often as the target would choose it, so no draft is taken for free.
        assert abs(float(accepted.float().mean()) - float(target[draft])) < 0.015


def test_sample_chains_draws_one_token_behind_all_accepted_drafts() -> None:
    target = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    drawn, accepted = sample(target, torch.tensor([[2, 0, 1], [2, 0, 2], [2, 1, 1]]), seed=0)
    assert accepted.tolist() == [2, 1, 0]
    assert drawn.tolist() == [[0, 1, 2], [0, 1, -1], [0, -1, -1]]


def test_sample_chains_never_draws_an_impossible_token_at_the_edges() -> None:
    """Draws of exactly 0 and of the largest float below 1."""
    target = torch.tensor([0.0, 0.5, 0.5, 0.0])
    edges = torch.tensor([0.0, 1 - 2**-24])
    predicts = torch.zeros(2, dtype=torch.int32)
    sample_chains(
        predicts=predicts,
        accept_index=torch.zeros(2, 1, dtype=torch.int32),
        accept_token_num=torch.zeros(2, dtype=torch.int32),
        candidates=torch.tensor([[0], [0]]),
        uniform_samples=torch.zeros(2, 1),
        uniform_samples_for_final_sampling=edges,
        target_probs=target.expand(2, 1, -1),
    )
    assert predicts.tolist() == [1, 2]


def test_verify_uses_greedy_only_if_all_requests_are() -> None:
    assert verify_uses_greedy(is_all_greedy=True, is_cpu=True)
    assert not verify_uses_greedy(is_all_greedy=False, is_cpu=True)
