"""Proof of the models that a scheduler has loaded, its draft model included."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from serval_sglang.plugin.registration import PluginNotInEffect, proof_of_effect, require_proof

OWN = {
    "model": "serval_sglang.models.longcat_flash.LongcatFlashForCausalLM",
    "ngram_manager": "serval_sglang.layers.ngram_history.RequestHistoryManager",
    "draft_model": "serval_sglang.models.longcat_flash_nextn.LongcatFlashForCausalLMNextN",
}


def instance_of(name: str) -> Any:
    module, _, cls = name.rpartition(".")
    return type(cls, (), {"__module__": module})()


def scheduler(*, draft_model: str | None) -> Any:
    runner = SimpleNamespace(
        model=instance_of(OWN["model"]), ngram_embedding_manager=instance_of(OWN["ngram_manager"])
    )
    draft_worker = None
    if draft_model is not None:
        draft_runner = SimpleNamespace(model=instance_of(draft_model))
        draft_worker = SimpleNamespace(draft_worker=SimpleNamespace(draft_runner=draft_runner))
    return SimpleNamespace(tp_worker=SimpleNamespace(model_runner=runner), draft_worker=draft_worker)


def test_proof_names_the_draft_model_of_a_scheduler_with_drafts() -> None:
    proof = proof_of_effect(scheduler(draft_model=OWN["draft_model"]))
    assert proof == OWN
    require_proof(proof)


def test_proof_names_no_draft_model_without_drafts() -> None:
    proof = proof_of_effect(scheduler(draft_model=None))
    assert proof == {name: cls for name, cls in OWN.items() if name != "draft_model"}
    require_proof(proof)


@pytest.mark.parametrize(("manager", "is_own"), [("BatchCounter", True), ("RequestHistoryManager", False)])
def test_proof_of_a_model_without_ngrams_names_its_count_of_batches(manager: str, is_own: bool) -> None:
    loaded = scheduler(draft_model=None)
    runner = loaded.tp_worker.model_runner
    runner.model.use_ngram_embedding = False
    runner.ngram_embedding_manager = instance_of(f"serval_sglang.layers.ngram_history.{manager}")
    with nullcontext() if is_own else pytest.raises(PluginNotInEffect, match="batch_counter"):
        require_proof(proof_of_effect(loaded))


def test_proof_of_a_model_with_ngrams_needs_their_state() -> None:
    loaded = scheduler(draft_model=None)
    loaded.tp_worker.model_runner.ngram_embedding_manager = instance_of(
        "serval_sglang.layers.ngram_history.BatchCounter"
    )
    with pytest.raises(PluginNotInEffect, match="RequestHistoryManager"):
        require_proof(proof_of_effect(loaded))


def test_proof_of_sglangs_draft_model_is_refused() -> None:
    proof = proof_of_effect(
        scheduler(draft_model="sglang.srt.models.longcat_flash_nextn.LongcatFlashForCausalLMNextN")
    )
    with pytest.raises(PluginNotInEffect, match=r"longcat_flash_nextn\.LongcatFlashForCausalLMNextN"):
        require_proof(proof)
