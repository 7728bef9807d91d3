"""Unsupported features are refused by name before anything is loaded."""

from types import SimpleNamespace
from typing import Any

import pytest

model = pytest.importorskip("serval_sglang.models.longcat_flash", reason="needs SGLang")


def ask(
    monkeypatch: pytest.MonkeyPatch,
    *,
    speculative: str | None = None,
    topk: int = 1,
    pipeline: int = 1,
    routed_experts: bool = False,
    recorder: str | None = None,
) -> None:
    values: dict[str, Any] = {
        "get_server_args": SimpleNamespace(
            speculative_algorithm=speculative,
            speculative_eagle_topk=topk,
            speculative_adaptive=False,
            speculative_use_rejection_sampling=False,
            speculative_accept_threshold_single=1.0,
            speculative_accept_threshold_acc=1.0,
            enable_mixed_chunk=False,
            enable_custom_logit_processor=False,
        ),
        "get_parallel": SimpleNamespace(pp_size=pipeline),
        "get_exec": SimpleNamespace(
            features=SimpleNamespace(enable_return_routed_experts=routed_experts),
            moe=SimpleNamespace(expert_distribution_recorder_mode=recorder),
        ),
    }
    for name, value in values.items():
        monkeypatch.setattr(model, name, lambda value=value: value)
    model._refuse_unsupported_features()


def test_model_accepts_usual_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch)
    ask(monkeypatch, speculative="EAGLE")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"speculative": "NGRAM"}, "--speculative-algorithm NGRAM is not supported: this model drafts with"),
        (
            {"speculative": "EAGLE", "topk": 2},
            "--speculative-eagle-topk is not supported with --mtp-steps: the n-gram state follows one chain",
        ),
        ({"pipeline": 2}, "--pp-size must be 1 for this model, got 2"),
        ({"routed_experts": True}, "--enable-return-routed-experts and .* are not supported"),
        ({"recorder": "stat"}, "--expert-distribution-recorder-mode are not supported"),
    ],
)
def test_model_names_unsupported_feature(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        ask(monkeypatch, **asked)
