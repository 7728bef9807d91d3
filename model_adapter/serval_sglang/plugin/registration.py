"""All changes that the plugin makes in an SGLang process, and the check that they are in effect.

Each change has a row in model_adapter/UPSTREAM.md.
"""

from importlib.metadata import version
from typing import Any

SUPPORTED_SGLANG = "0.5.23"
ARCHITECTURE = "LongcatFlashForCausalLM"
# SGLang changes the target's architecture to this one for the draft model.
DRAFT_ARCHITECTURE = "LongcatFlashForCausalLMNextN"
_MODELS_PACKAGE = "serval_sglang.models"
_MANAGER = "sglang.srt.model_executor.model_runner_components.ngram_embedding_manager.NgramEmbeddingManager"
# Role in a proof and class, for models with n-grams and without.
_MANAGERS = {True: ("ngram_manager", "RequestHistoryManager"), False: ("batch_counter", "BatchCounter")}
_HOOKS = (
    "sglang.srt.models.longcat_flash.LongcatFlashMoE",
    "sglang.srt.models.longcat_flash.LongcatFlashDecoderLayer",
    "sglang.srt.models.longcat_flash.NgramEmbedding",
    f"{_MANAGER}.from_model",
)


class PluginNotInEffect(RuntimeError):
    """SGLang serves, or would serve, a model other than Serval's."""


def install() -> None:
    """Register configuration, model class and hooks; SGLang applies the hooks when all plugins have run.

    Raises `PluginNotInEffect` if SGLang has another version or another package provides this architecture.
    """
    _require_supported_sglang()
    _register_config()
    _register_model()
    _register_hooks()


def require_registered() -> None:
    """Raise `PluginNotInEffect` unless this process would build Serval's model."""
    from sglang.srt.models.registry import ModelRegistry
    from sglang.srt.plugins.hook_registry import HookRegistry
    from sglang.srt.utils.hf_transformers.common import _CONFIG_REGISTRY

    from serval_sglang.drafts import hooks as draft_hooks

    in_use = {
        "model": _name(ModelRegistry.models.get(ARCHITECTURE)),
        "draft model": _name(ModelRegistry.models.get(DRAFT_ARCHITECTURE)),
        "configuration": _name(_CONFIG_REGISTRY["longcat_flash"]),
    }
    hooked = (*_HOOKS, *draft_hooks.AROUND, *draft_hooks.REPLACED)
    missing = [f"{role} {name}" for role, name in in_use.items() if not name.startswith("serval_sglang.")]
    missing += [f"no hook on {target}" for target in hooked if target not in HookRegistry._patched]
    if missing:
        raise PluginNotInEffect(
            f"SGLang would serve {ARCHITECTURE} with {', '.join(missing)}. Is the entry point `serval` "
            "installed (`pip show serval-llm`), is it left out of SGLANG_PLUGINS, or does "
            "SGLANG_EXTERNAL_MODEL_PACKAGE or another plugin provide the same architecture?"
        )


def proof_of_effect(scheduler: Any) -> dict[str, str]:
    """Return a scheduler's report on the models it has loaded, for `require_proof`."""
    model_runner = scheduler.tp_worker.model_runner
    has_ngrams = getattr(model_runner.model, "use_ngram_embedding", True)
    proof = {
        "model": _name(type(model_runner.model)),
        _MANAGERS[has_ngrams][0]: _name(type(model_runner.ngram_embedding_manager)),
    }
    if scheduler.draft_worker is not None:
        proof["draft_model"] = _name(type(scheduler.draft_worker.draft_worker.draft_runner.model))
    return proof


def require_proof(proof: dict[str, str] | None) -> None:
    """Raise `PluginNotInEffect` unless `proof` names our model, our n-gram state (or, of a model without
    n-grams, our count of batches) and, if it names a draft model, ours."""
    has_ngrams = proof is None or _MANAGERS[False][0] not in proof
    role, manager = _MANAGERS[has_ngrams]
    expected = {
        "model": f"{_MODELS_PACKAGE}.longcat_flash.{ARCHITECTURE}",
        role: f"serval_sglang.layers.ngram_history.{manager}",
    }
    if proof is not None and "draft_model" in proof:
        expected["draft_model"] = f"{_MODELS_PACKAGE}.longcat_flash_nextn.{DRAFT_ARCHITECTURE}"
    if proof != expected:
        raise PluginNotInEffect(
            f"a scheduler has loaded {proof!r}, and {expected!r} is needed: the plugin is not in effect "
            "there. Does --model name a LongCat-Flash checkpoint? See SGLang's messages above."
        )


def _require_supported_sglang() -> None:
    installed = version("sglang")
    if installed != SUPPORTED_SGLANG:
        raise PluginNotInEffect(
            f"it replaces parts of SGLang {SUPPORTED_SGLANG} and would change others in {installed!r}. "
            f"Install sglang=={SUPPORTED_SGLANG}, or a release of Serval made for {installed!r}."
        )


def _register_config() -> None:
    from sglang.srt.utils.hf_transformers.common import _CONFIG_REGISTRY

    from serval_sglang.plugin.sglang_config import LongcatFlashConfig

    _CONFIG_REGISTRY["longcat_flash"] = LongcatFlashConfig


def _register_model() -> None:
    from sglang.srt.models.registry import ModelRegistry

    present = [ModelRegistry.models.get(name) for name in (ARCHITECTURE, DRAFT_ARCHITECTURE)]
    if all(map(_is_own, present)):
        return
    for cls in present:
        if cls is not None and not _is_own(cls) and not cls.__module__.startswith("sglang."):
            raise PluginNotInEffect(
                f"{_name(cls)} already provides {cls.__name__}: unset SGLANG_EXTERNAL_MODEL_PACKAGE, or "
                "leave the other plugin out of SGLANG_PLUGINS."
            )
    ModelRegistry.register(_MODELS_PACKAGE, overwrite=True, strict=True)


def _register_hooks() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType
    from sglang.srt.utils import is_cpu

    from serval_sglang.drafts import hooks as draft_hooks
    from serval_sglang.layers.decoder_layer import LongcatFlashDecoderLayer
    from serval_sglang.layers.moe import LongcatFlashMoE
    from serval_sglang.layers.ngram_embedding import NgramEmbedding
    from serval_sglang.layers.ngram_history import manager_for_model

    if _HOOKS[0] in HookRegistry._hooks:
        return
    hooks: tuple[Any, ...] = (
        LongcatFlashMoE,
        LongcatFlashDecoderLayer,
        NgramEmbedding,
        manager_for_model,
    )
    kinds = (HookType.REPLACE, HookType.REPLACE, HookType.REPLACE, HookType.AROUND)
    for target, hook, kind in zip(_HOOKS, hooks, kinds, strict=True):
        HookRegistry.register(target, hook, kind)
    for target, hook in draft_hooks.AROUND.items():
        HookRegistry.register(target, hook, HookType.AROUND)
    for target, replacement in draft_hooks.REPLACED.items():
        HookRegistry.register(target, replacement, HookType.REPLACE)
    if is_cpu():
        from serval_sglang.cpu_compat.install import install as install_cpu_hooks

        install_cpu_hooks()


def _is_own(cls: Any) -> bool:
    return isinstance(cls, type) and cls.__module__.startswith(f"{_MODELS_PACKAGE}.")


def _name(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else repr(cls)
