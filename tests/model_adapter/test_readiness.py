"""A scheduler reports ready only with proof that it has loaded Serval's model."""

from typing import Any

import pytest

from serval_sglang.readiness import ReadinessGate

PROOF = {
    "model": "serval_sglang.models.longcat_flash.LongcatFlashForCausalLM",
    "ngram_manager": "serval_sglang.layers.ngram_history.RequestHistoryManager",
}

DRAFT_PROOF = {"draft_model": "serval_sglang.models.longcat_flash_nextn.LongcatFlashForCausalLMNextN"}


class StandInPipe:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.is_closed = False

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    "proof",
    [
        None,
        {**PROOF, "model": "sglang.srt.models.longcat_flash.LongcatFlashForCausalLM"},
        {**PROOF, "ngram_manager": "sglang.srt.model_executor.NgramEmbeddingManager"},
        {**PROOF, "draft_model": "sglang.srt.models.longcat_flash_nextn.LongcatFlashForCausalLMNextN"},
    ],
    ids=["no plugin", "built-in model", "built-in n-gram state", "built-in draft model"],
)
def test_readiness_gate_refuses_report_without_proof(proof: dict[str, str] | None) -> None:
    pipe = StandInPipe()
    with pytest.raises(SystemExit, match="engine refused: a scheduler has loaded"):
        ReadinessGate(pipe).send({"status": "ready", "serval": proof})
    assert pipe.sent == []


@pytest.mark.parametrize("draft_model", [{}, DRAFT_PROOF], ids=["no drafts", "drafts"])
def test_readiness_gate_passes_on_proven_report(draft_model: dict[str, str]) -> None:
    pipe = StandInPipe()
    ReadinessGate(pipe).send({"status": "ready", "serval": PROOF | draft_model, "max_req_input_len": 9})
    assert pipe.sent == [{"status": "ready", "max_req_input_len": 9}]


def test_readiness_gate_delegates_to_pipe() -> None:
    pipe = StandInPipe()
    ReadinessGate(pipe).close()
    assert pipe.is_closed
