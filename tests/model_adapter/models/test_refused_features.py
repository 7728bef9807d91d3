"""Unsupported features are refused by name before anything is loaded."""

from types import SimpleNamespace
from typing import Any

import pytest

model = pytest.importorskip("serval_sglang.models.longcat_flash", reason="needs SGLang")


def ask(
    monkeypatch: pytest.MonkeyPatch,
    *,
    speculative: str | None = None,
    pipeline: int = 1,
    routed_experts: bool = False,
    recorder: str | None = None,
) -> None:
    values: dict[str, Any] = {
        "get_spec": SimpleNamespace(speculative_algorithm=speculative),
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


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"speculative": "EAGLE"},
            "--speculative-algorithm 'EAGLE' is not supported: the n-gram ids",
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
