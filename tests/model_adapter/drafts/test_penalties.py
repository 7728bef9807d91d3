"""Penalties along a chain of tokens, by SGLang's own penalizers, against decoding the tokens one by one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from serval_sglang.drafts.penalties import copied_penalizer, count_new_tokens, penalise_chains

penaltylib = pytest.importorskip("sglang.srt.sampling.penaltylib", reason="needs SGLang")
VOCABULARY = 12
EOS = 2
KINDS = (
    "BatchedFrequencyPenalizer",
    "BatchedPresencePenalizer",
    "BatchedRepetitionPenalizer",
    "BatchedMinNewTokensPenalizer",
)
ALL_PENALTIES = {
    "frequency_penalty": 0.7,
    "presence_penalty": 0.4,
    "repetition_penalty": 1.3,
    "min_new_tokens": 4,
}


class Batch(SimpleNamespace):
    """Parts of a batch that SGLang's penalizers read. They hold it by a weak reference."""


def request(output_ids: list[int], **penalties: float) -> SimpleNamespace:
    none = {
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_new_tokens": 0,
        "stop_token_ids": None,
    }
    return SimpleNamespace(
        output_ids=output_ids,
        eos_token_ids={EOS},
        tokenizer=SimpleNamespace(additional_stop_token_ids=None, eos_token_id=EOS),
        sampling_params=SimpleNamespace(**(none | penalties)),
    )


def batch_of(*requests: SimpleNamespace, is_extend: bool = False) -> Batch:
    return Batch(reqs=list(requests), device="cpu", forward_mode=SimpleNamespace(is_extend=lambda: is_extend))


def orchestrator(batch: Batch) -> Any:
    kinds = {getattr(penaltylib, kind) for kind in KINDS}
    return penaltylib.BatchedPenalizerOrchestrator(VOCABULARY, batch, kinds)


def one_by_one(output_ids: list[int], logits: Tensor, **penalties: float) -> Tensor:
    """Penalise `logits` [V] after `output_ids`, each counted by SGLang as decoding without drafts does."""
    batch = batch_of(request([], **penalties))
    found = orchestrator(batch)
    for token in output_ids:
        found.cumulate_output_tokens(torch.tensor([token]))
    penalised = logits[None].clone()
    additive = torch.zeros_like(penalised)
    found.accumulate_additive_penalties(additive)
    penalised.add_(additive)
    scaling = found.accumulate_scaling_penalties()
    if scaling is not None:
        penalised = torch.where(penalised < 0, penalised * scaling, penalised / scaling)
    return penalised[0]


def test_penalise_chains_equals_decoding_one_by_one() -> None:
    rows = [
        ([3, 3], [5, 3, 5, 7], ALL_PENALTIES),
        ([4], [4, 4, 4, EOS], {"frequency_penalty": 0.5}),
        ([6, 7, 8], [6, 9, 9, 10], {"repetition_penalty": 0.8, "min_new_tokens": 6}),
        ([5], [5, 6, 7, 8], {}),
    ]
    requests = [request([*before, chain[0]], **penalties) for before, chain, penalties in rows]
    batch = batch_of(*requests)
    found = orchestrator(batch)
    count_new_tokens(found)
    logits = torch.randn(len(rows), 4, VOCABULARY, generator=torch.Generator().manual_seed(1))
    chains = torch.tensor([chain for _, chain, _ in rows])
    expected = torch.stack(
        [
            torch.stack(
                [
                    one_by_one([*before, *chain[: place + 1]], logits[row, place], **penalties)
                    for place in range(4)
                ]
            )
            for row, (before, chain, penalties) in enumerate(rows)
        ]
    )
    penalised = logits.clone()
    penalise_chains([copied_penalizer(p) for p in found.penalizers.values()], penalised, chains)
    assert torch.equal(penalised, expected)
    # Rejected drafts leave nothing behind.
    again = logits.clone()
    penalise_chains([copied_penalizer(p) for p in found.penalizers.values()], again, chains)
    assert torch.equal(again, expected)


def counts(found: Any) -> Tensor:
    """How often each token was counted [B, V], for a frequency penalty of 1."""
    (penalizer,) = [p for p in found.penalizers.values() if type(p).__name__ == "BatchedFrequencyPenalizer"]
    counted: Tensor = penalizer.cumulated_frequency_penalties
    return counted


def test_count_new_tokens_counts_each_accepted_token_once() -> None:
    first, second = (request([], frequency_penalty=1.0, min_new_tokens=3) for _ in range(2))
    batch = batch_of(first, second)
    found = orchestrator(batch)
    for news in (([4], [5]), ([4, 4, 6], [7]), ([], [5, 5]), ([], [])):
        first.output_ids += news[0]
        second.output_ids += news[1]
        count_new_tokens(found)
    expected = [torch.bincount(torch.tensor(r.output_ids), minlength=VOCABULARY) for r in (first, second)]
    assert torch.equal(counts(found), torch.stack(expected).float())
    (length,) = [p.len_output_tokens for p in found.penalizers.values() if hasattr(p, "len_output_tokens")]
    assert length.flatten().tolist() == [4, 4]


def test_count_new_tokens_counts_all_again_in_the_prefill_after_a_retraction() -> None:
    retracted = request([4, 4, 6], frequency_penalty=1.0)
    running = batch_of(retracted)
    count_new_tokens(orchestrator(running))
    # A chunked prefill has new penalizers for each chunk.
    for _ in range(2):
        prefill = batch_of(retracted, is_extend=True)
        found = orchestrator(prefill)
        count_new_tokens(found)
    assert counts(found)[0, 4] == 2
    assert counts(found)[0, 6] == 1
