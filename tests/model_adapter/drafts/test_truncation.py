"""Tokens that top-k, top-p and min-p leave, against SGLang's own sampler."""

import pytest
import torch

from serval_sglang.drafts.truncation import truncate

SHAPE = (64, 40)


def test_truncate_leaves_what_sglangs_sampler_leaves() -> None:
    sampler = pytest.importorskip("sglang.srt.layers.sampler", reason="needs SGLang")
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(SHAPE, generator=generator)
    rows = SHAPE[0]
    parameters = {
        "temperatures": torch.rand(rows, 1, generator=generator) + 0.3,
        "top_ks": torch.randint(1, SHAPE[1], (rows,), generator=generator),
        "top_ps": torch.rand(rows, generator=generator),
        "min_ps": 0.3 * torch.rand(rows, generator=generator),
    }
    _, weights, order, _ = sampler.top_k_top_p_min_p_sampling_from_probs_torch(
        torch.softmax(logits / parameters["temperatures"], dim=-1),
        parameters["top_ks"],
        parameters["top_ps"],
        parameters["min_ps"],
        True,
        None,
        torch.zeros(rows),
        return_filtered_probs=True,
    )
    expected = torch.zeros(SHAPE).scatter(1, order.long(), weights) > 0
    truncated = truncate(logits, **parameters)
    assert torch.equal(truncated.isfinite(), expected)
    assert torch.equal(truncated[expected], logits[expected])


def test_truncate_of_a_greedy_request_leaves_the_first_of_equal_tokens() -> None:
    logits = torch.tensor([[1.0, 4.0, 4.0, 4.0]])
    truncated = truncate(
        logits,
        temperatures=torch.ones(1),
        top_ks=torch.ones(1),
        top_ps=torch.ones(1),
        min_ps=torch.zeros(1),
    )
    assert truncated.isfinite().tolist() == [[False, True, False, False]]
