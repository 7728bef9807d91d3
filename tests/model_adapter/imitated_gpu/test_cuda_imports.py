"""The engine imported on imitated GPUs: every `if is_cuda()` is taken, and the plugin is in effect there.

Real libraries are loaded: sgl_kernel's and DeepGEMM's for this GPU, flashinfer, Triton. One library is a
stand-in, the driver's libcuda.so.1, because sgl_kernel's cannot be loaded without it.
"""

from typing import Any

import pytest

from serval_sglang.drafts.hooks import AROUND, REPLACED
from serval_sglang.plugin.registration import ARCHITECTURE, DRAFT_ARCHITECTURE
from serval_testkit.imitated_engine import Answers

pytestmark = pytest.mark.timeout(900)  # the first test waits for `answers`

CAPABILITIES = ("8.0", "9.0", "10.0")
_MANAGER = "model_executor.model_runner_components.ngram_embedding_manager.NgramEmbeddingManager"


def _name(hook: Any) -> str:
    return f"{hook.__module__}.{hook.__qualname__}"


REPLACEMENTS = {
    "models.longcat_flash.LongcatFlashMoE": "serval_sglang.layers.moe.LongcatFlashMoE",
    "models.longcat_flash.LongcatFlashDecoderLayer": (
        "serval_sglang.layers.decoder_layer.LongcatFlashDecoderLayer"
    ),
    "models.longcat_flash.NgramEmbedding": "serval_sglang.layers.ngram_embedding.NgramEmbedding",
}
WRAPPERS = {
    f"{_MANAGER}.from_model": "serval_sglang.layers.ngram_history.manager_for_model",
    "entrypoints.engine._server_args_for_logging": "serval_sglang.engine_process.without_secrets",
    "entrypoints.http_server.add_prometheus_middleware": "serval_sglang.metrics.page.keep_names",
    "managers.scheduler.Scheduler.get_init_info": "serval_sglang.readiness._add_proof",
    **{target.removeprefix("sglang.srt."): _name(hook) for target, hook in {**AROUND, **REPLACED}.items()},
}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_registry_returns_our_model(answers: Answers, capability: str) -> None:
    models = answers["engines"][capability]["models"]
    assert models[ARCHITECTURE] == "serval_sglang.models.longcat_flash.LongcatFlashForCausalLM"
    draft = "serval_sglang.models.longcat_flash_nextn.LongcatFlashForCausalLMNextN"
    assert models[DRAFT_ARCHITECTURE] == draft


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_hooks_are_applied(answers: Answers, capability: str) -> None:
    hooks = answers["engines"][capability]["hooks"]
    ours = {target: names for target, names in hooks.items() if names[0].startswith("serval_sglang.")}
    assert ours == {f"sglang.srt.{target}": [name] for target, name in (REPLACEMENTS | WRAPPERS).items()}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_upstream_model_is_built_from_our_classes(answers: Answers, capability: str) -> None:
    """Upstream's classes build these by their names in the module."""
    objects = answers["engines"][capability]["objects"]
    found = {target: objects[f"sglang.srt.{target}"] for target in REPLACEMENTS}
    assert found == REPLACEMENTS


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_objects_of_upstream_md_can_be_imported(answers: Answers, capability: str) -> None:
    objects = answers["engines"][capability]["objects"]
    assert len(objects) > 90
    assert {name: found for name, found in objects.items() if "Error: " in found} == {}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_nothing_of_the_cpu_engine_is_loaded(answers: Answers, capability: str) -> None:
    engine = answers["engines"][capability]
    assert (engine["platform"], engine["kernels"]) == ("CudaSRTPlatform", "cuda")
    assert [name for name in engine["modules"] if name.startswith("serval_sglang.cpu_compat")] == []
    assert "standin_packages" not in engine["flashinfer"]


@pytest.mark.parametrize(
    ("capability", "sgl_kernel", "deep_gemm"),
    [("8.0", "sm100", False), ("9.0", "sm90", True), ("10.0", "sm100", True)],
)
def test_libraries_are_those_for_the_gpu(
    answers: Answers, capability: str, sgl_kernel: str, deep_gemm: bool
) -> None:
    """The kernels in `sm100` are for every GPU but Hopper."""
    engine = answers["engines"][capability]
    assert (engine["sgl_kernel"], engine["deep_gemm"]) == (sgl_kernel, deep_gemm)
