"""Flags that do not go with drafts, each refused in one sentence, and only if drafts are asked for."""

from types import SimpleNamespace
from typing import Any

import pytest

from serval_sglang.drafts.refusals import reason_against_drafts

USUAL: dict[str, Any] = {
    "speculative_algorithm": "EAGLE",
    "speculative_eagle_topk": 1,
    "speculative_use_rejection_sampling": False,
    "speculative_accept_threshold_single": 1.0,
    "speculative_accept_threshold_acc": 1.0,
    "enable_mixed_chunk": False,
    "enable_custom_logit_processor": False,
}
WRONG: dict[str, Any] = {
    "speculative_eagle_topk": 2,
    "speculative_use_rejection_sampling": True,
    "speculative_accept_threshold_single": 0.9,
    "speculative_accept_threshold_acc": 0.9,
    "enable_mixed_chunk": True,
    "enable_custom_logit_processor": True,
}


def test_reason_against_drafts_accepts_chains_of_the_models_own_layer() -> None:
    assert reason_against_drafts(SimpleNamespace(**USUAL)) is None
    assert reason_against_drafts(SimpleNamespace(**USUAL | {"speculative_algorithm": "NEXTN"})) is None


@pytest.mark.parametrize("flag", WRONG)
def test_reason_against_drafts_names_the_flag(flag: str) -> None:
    reason = reason_against_drafts(SimpleNamespace(**USUAL | {flag: WRONG[flag]}))
    assert reason is not None
    assert reason.startswith(f"--{flag.replace('_', '-')} is not supported with --mtp-steps: ")


@pytest.mark.parametrize("algorithm", ["NGRAM", "EAGLE3", "STANDALONE"])
def test_reason_against_drafts_names_another_algorithm(algorithm: str) -> None:
    reason = reason_against_drafts(SimpleNamespace(**USUAL | {"speculative_algorithm": algorithm}))
    assert reason is not None
    assert reason.startswith(f"--speculative-algorithm {algorithm} is not supported: ")


def test_reason_against_drafts_has_none_without_drafts() -> None:
    assert reason_against_drafts(SimpleNamespace(**USUAL | WRONG | {"speculative_algorithm": None})) is None
