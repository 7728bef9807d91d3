"""A scheduler reports ready only with proof that Serval's model is what it has loaded."""

from typing import Any

import pytest

from serval_sglang.readiness import ReadinessGate

PROOF = {
    "model": "serval_sglang.models.longcat_flash.LongcatFlashForCausalLM",
    "ngram_manager": "serval_sglang.layers.ngram_history.RequestHistoryManager",
}


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
    ],
    ids=["no plugin", "built-in model", "built-in n-gram state"],
)
def test_without_proof_nothing_is_reported(proof: dict[str, str] | None) -> None:
    pipe = StandInPipe()
    with pytest.raises(SystemExit, match="engine refused: a scheduler has loaded"):
        ReadinessGate(pipe).send({"status": "ready", "serval": proof})
    assert pipe.sent == []


def test_with_proof_the_report_is_passed_on_as_sglang_made_it() -> None:
    pipe = StandInPipe()
    ReadinessGate(pipe).send({"status": "ready", "serval": PROOF, "max_req_input_len": 9})
    assert pipe.sent == [{"status": "ready", "max_req_input_len": 9}]


def test_it_is_a_pipe_in_every_other_way() -> None:
    pipe = StandInPipe()
    ReadinessGate(pipe).close()
    assert pipe.is_closed
