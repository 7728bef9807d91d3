"""Hooks on SGLang's verification: what it gets, and when a batch waits for the last pass."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from serval_sglang.drafts import verification

VOCABULARY = 6
WIDTH = 2


@dataclass
class SamplingInfo:
    """Fields of SGLang's SamplingBatchInfo that the hooks read or replace, for one request."""

    is_all_greedy: bool = False
    need_min_p_sampling: bool = False
    need_top_k_sampling: bool = True
    need_top_p_sampling: bool = True
    logit_bias: Tensor | None = None
    acc_additive_penalties: Tensor | None = None
    acc_scaling_penalties: Tensor | None = None
    penalizer_orchestrator: Any = None
    temperatures: Tensor = field(default_factory=lambda: torch.ones(1, 1))
    top_ks: Tensor = field(default_factory=lambda: torch.tensor([VOCABULARY]))
    top_ps: Tensor = field(default_factory=lambda: torch.ones(1))
    min_ps: Tensor = field(default_factory=lambda: torch.zeros(1))


class Batch(SimpleNamespace):
    """Stands in for SGLang's batch."""


def batch_of(info: SamplingInfo, *, drafts: bool = True, idle: bool = False) -> Batch:
    return Batch(
        sampling_info=info,
        spec_algorithm=SimpleNamespace(is_none=lambda: not drafts),
        forward_mode=SimpleNamespace(is_idle=lambda: idle),
    )


@dataclass
class Verified:
    """Arguments with which SGLang's eagle_sample was called."""

    info: SamplingInfo
    logits: Tensor
    grammar_mask: Any


def verify(
    info: SamplingInfo, logits: Tensor, *, grammar_mask: Any = None, idle: bool = False
) -> tuple[Verified, Tensor]:
    """Return what SGLang got, and the logits from which log-probabilities are computed."""
    calls: list[Verified] = []

    def original(verify_input: Any, batch: Any, logits_output: Any, mask: Any, **_: Any) -> str:
        calls.append(Verified(batch.sampling_info, logits_output.next_token_logits, mask))
        return "verified"

    verify_input = SimpleNamespace(draft_token_num=WIDTH, draft_token=torch.tensor([1, 2]))
    output = SimpleNamespace(next_token_logits=logits)
    batch = batch_of(info, idle=idle)
    assert verification.eagle_sample(original, verify_input, batch, output, grammar_mask) == "verified"
    assert batch.sampling_info is info
    (call,) = calls
    return call, output.next_token_logits


@pytest.fixture(params=[True, False], ids=["cpu", "gpu"])
def on_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    utils = pytest.importorskip("sglang.srt.utils", reason="needs SGLang")
    monkeypatch.setattr(utils, "is_cpu", lambda: request.param)
    is_cpu: bool = request.param
    return is_cpu


def test_eagle_sample_leaves_greedy_requests_to_sglang(*, on_cpu: bool) -> None:
    info = SamplingInfo(is_all_greedy=True, need_min_p_sampling=True, logit_bias=torch.ones(1, VOCABULARY))
    logits = torch.randn(WIDTH, VOCABULARY)
    mask = object()
    call, _ = verify(info, logits, grammar_mask=mask)
    assert (call.info, call.logits, call.grammar_mask) == (info, logits, mask)


def test_eagle_sample_truncates_sampled_requests_where_sglang_does_not(*, on_cpu: bool) -> None:
    info = SamplingInfo(top_ks=torch.tensor([2]))
    logits = torch.tensor([[1.0, 2, 3, 4, 5, 6], [6.0, 5, 4, 3, 2, 1]])
    call, for_logprobs = verify(info, logits.clone())
    if not on_cpu:
        # SGLang's kernels for GPUs do.
        assert call.info is info
        assert torch.equal(call.logits, logits)
        return
    assert (call.info.need_top_k_sampling, call.info.need_top_p_sampling) == (False, False)
    assert call.logits.isfinite().tolist() == [[False] * 4 + [True] * 2, [True] * 2 + [False] * 4]
    # Log-probabilities are those of the whole distribution.
    assert torch.equal(for_logprobs, logits)


def test_eagle_sample_applies_min_p_to_the_logits_with_bias_and_grammar(*, on_cpu: bool) -> None:
    bias = torch.zeros(1, VOCABULARY)
    bias[0, 0] = 9.0
    info = SamplingInfo(need_min_p_sampling=True, min_ps=torch.tensor([0.5]), logit_bias=bias)

    def forbid_last(logits: Tensor) -> None:
        logits[:, -1] = -torch.inf

    logits = torch.tensor([[1.0, 9.9, 0, 0, 0, 99], [0.0, 0, 0, 8.9, 8, 99]])
    call, for_logprobs = verify(info, logits, grammar_mask=SimpleNamespace(apply=forbid_last))
    assert call.logits.isfinite().tolist() == [
        [True, True, False, False, False, False],
        [True, False, False, True, False, False],
    ]
    assert (call.info.logit_bias, call.grammar_mask) == (None, None)
    assert for_logprobs[:, 0].tolist() == [10.0, 9.0]
    assert for_logprobs[:, -1].tolist() == [-torch.inf, -torch.inf]


def test_eagle_sample_of_an_idle_rank_is_sglangs(*, on_cpu: bool) -> None:
    info = SamplingInfo(need_min_p_sampling=True)
    call, _ = verify(info, torch.empty(0, VOCABULARY), idle=True)
    assert call.info is info


def test_eagle_sample_applies_penalties_to_each_token_once(
    monkeypatch: pytest.MonkeyPatch, *, on_cpu: bool
) -> None:
    seen: list[tuple[Any, list[int], Tensor]] = []

    def penalise(penalizers: Any, logits: Tensor, tokens: Tensor) -> None:
        seen.append((penalizers, list(logits.shape), tokens))
        logits += 100

    monkeypatch.setattr(verification, "penalise_chains", penalise)
    info = SamplingInfo(is_all_greedy=True, acc_additive_penalties=torch.ones(1, VOCABULARY))
    info.serval_penalizers = ["a penalizer"]  # type: ignore[attr-defined]
    call, _ = verify(info, torch.zeros(WIDTH, VOCABULARY))
    ((penalizers, shape, tokens),) = seen
    assert (penalizers, shape, tokens.tolist()) == (["a penalizer"], [1, WIDTH, VOCABULARY], [[1, 2]])
    assert (call.info.acc_additive_penalties, call.logits.min()) == (None, 100)


def orchestrator(batch: Batch | None, *, is_required: bool = True) -> Any:
    return SimpleNamespace(is_required=is_required, batch=batch, penalizers={"kind": SimpleNamespace()})


@pytest.mark.parametrize(("drafts", "is_required"), [(False, True), (True, False)])
def test_forward_copy_without_drafts_or_penalties_is_sglangs(*, drafts: bool, is_required: bool) -> None:
    info = SamplingInfo()
    batch = batch_of(info, drafts=drafts)
    info.penalizer_orchestrator = orchestrator(batch, is_required=is_required)
    assert verification.forward_copy(lambda given: given, info) is info
    assert not hasattr(info, "serval_penalizers")


def test_forward_copy_counts_before_sglang_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(verification, "count_new_tokens", lambda _: steps.append("counted"))
    info = SamplingInfo()
    batch = batch_of(info)
    info.penalizer_orchestrator = orchestrator(batch)

    def original(_: Any) -> SamplingInfo:
        steps.append("summed")
        return SamplingInfo()

    copied: Any = verification.forward_copy(original, info)
    assert steps == ["counted", "summed"]
    assert len(copied.serval_penalizers) == 1
    assert copied.serval_penalizers[0] is not info.penalizer_orchestrator.penalizers["kind"]


def test_cumulate_penalty_output_tokens_is_left_to_forward_copy_with_drafts() -> None:
    counted: list[Any] = []
    with_drafts, without = (batch_of(SamplingInfo(), drafts=drafts) for drafts in (True, False))
    for batch in (with_drafts, without):
        verification.cumulate_penalty_output_tokens(counted.append, batch)
    assert counted == [without]


@pytest.mark.parametrize(
    ("drafts", "penalties", "waiting", "waits"),
    [(True, True, 1, True), (True, True, 0, False), (True, False, 1, False), (False, True, 1, False)],
)
def test_batch_with_drafts_and_penalties_waits_for_the_last_pass(
    *, drafts: bool, penalties: bool, waiting: int, waits: bool
) -> None:
    info = SamplingInfo()
    batch = batch_of(info, drafts=drafts)
    info.penalizer_orchestrator = orchestrator(batch, is_required=penalties)
    scheduler = SimpleNamespace(result_queue=[None] * waiting)

    def overlaps(*_: Any, **__: Any) -> bool:
        return False

    def waits_anyway(*_: Any, **__: Any) -> bool:
        return True

    decide = verification.is_disable_overlap_for_batch
    assert decide(overlaps, scheduler, batch, last_batch=None) is waits
    assert decide(waits_anyway, scheduler, batch, last_batch=None) is True
    assert decide(overlaps, scheduler, None, last_batch=None) is False
