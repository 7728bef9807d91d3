"""The start of an engine on imitated GPUs, as far as it gets without one.

Run as `python -m serval_testkit.imitated_engine ANSWERS < question`, with a `Question` in JSON; writes an
`Answers` in JSON. One process imports what does not depend on the GPU; a fork of it is a machine of one
compute capability and imports the engine; forks of that resolve the command lines, because SGLang leaves
decisions in the environment and in global objects.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any, ParamSpec, TypedDict, TypeVar
from unittest.mock import patch

from serval_testkit.imitated_gpu import GPUS, imitate, imitate_undecided, write_nvidia_smi

P = ParamSpec("P")
R = TypeVar("R")

# Most of the time that imports take, first that of other packages. None asks which GPU this is.
_PACKAGES = ("transformers", "torch._inductor.compile_fx", "cutlass", "compressed_tensors", "openai")
_SHARED_IMPORTS = ("sglang.srt.server_args", "serval_sglang.plugin.parsers")
# The engine beyond the model: its processes, and all attention backends that it chooses for this model.
_ENGINE_IMPORTS = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.model_executor.model_runner",
    "sglang.srt.layers.attention.flashattention_backend",
    "sglang.srt.layers.attention.flashinfer_mla_backend",
    "sglang.srt.layers.attention.triton_backend",
    "sglang.srt.layers.attention.trtllm_mla_backend",
)

_GPUS_OF_A_MACHINE = 2


class Question(TypedDict):
    """Input of the program.

    - `command_lines`: SGLang's arguments, by GPU (a name in `GPUS`) and by a name of their own
    - `objects`: dotted names, looked up in the engine
    - `cpu_environment`: environment of an engine with `--device cpu`
    """

    command_lines: Mapping[str, Mapping[str, Sequence[str]]]
    objects: Sequence[str]
    cpu_environment: Mapping[str, str]


class Answers(TypedDict):
    """Values by GPU and command line; facts of the imported engine by compute capability, and of one for the
    CPU beside a GPU."""

    resolved: dict[str, dict[str, dict[str, Any]]]
    engines: dict[str, dict[str, Any]]
    cpu_engine: dict[str, Any]


def main() -> None:
    question: Question = json.load(sys.stdin)
    answers_file = Path(sys.argv[1])
    gc.disable()
    with imitate_undecided():
        _import(_PACKAGES)
        cpu_engine = _forked(_cpu_engine, question["cpu_environment"])
        _import(_SHARED_IMPORTS)
    gc.freeze()
    capabilities: dict[tuple[int, int], list[str]] = {}
    for name in question["command_lines"]:
        capabilities.setdefault(GPUS[name].capability, []).append(name)
    answers = Answers(resolved={}, engines={}, cpu_engine=cpu_engine)
    for (major, minor), names in capabilities.items():
        of_engine, of_gpus = _forked(_engine, names, question, answers_file.parent)
        answers["engines"][f"{major}.{minor}"] = of_engine
        answers["resolved"] |= of_gpus
    answers_file.write_text(json.dumps(answers, default=str))


def _forked(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Return the result of a call in a fork of this process; exceptions come through."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function, *arguments, **named).result()


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        import_module(module)


def _cpu_engine(environment: Mapping[str, str]) -> dict[str, Any]:
    """Name what an engine with `--device cpu` computes with, on a machine that has a GPU."""
    imitate(GPUS["H100"], count=1)
    os.environ.clear()
    os.environ.update(environment)

    from sglang.kernels.fused_op import _platform_key
    from sglang.srt.platforms import current_platform
    from sglang.srt.utils import is_cpu, is_cuda

    return {
        "platform": type(current_platform).__name__,
        "kernels": _platform_key(),
        "is_cpu": is_cpu(),
        "is_cuda": is_cuda(),
    }


def _engine(names: Sequence[str], question: Question, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Import the engine on the first of these GPUs, and resolve the command lines of all."""
    imitate(GPUS[names[0]], count=_GPUS_OF_A_MACHINE)

    # As serval_sglang.engine_process does, and then a scheduler up to its first use of the GPU.
    from sglang.srt.plugins import load_plugins

    from serval_sglang.engine_process import hook_http_server
    from serval_sglang.plugin.registration import require_registered
    from serval_sglang.readiness import run_checked_scheduler

    load_plugins()
    require_registered()
    hook_http_server()
    _import(_ENGINE_IMPORTS)
    with patch("sglang.srt.managers.scheduler.run_scheduler_process", _no_scheduler):
        run_checked_scheduler(pipe_writer=None)
    resolved = {name: _machine(name, question, folder) for name in names}
    return _facts(question["objects"]), resolved


def _no_scheduler(pipe_writer: object) -> None:
    pass


def _facts(objects: Sequence[str]) -> dict[str, Any]:
    """Name the classes and libraries that an engine in this process would use."""
    import sgl_kernel
    from sglang.kernels.fused_op import _platform_key
    from sglang.srt.layers import deep_gemm_wrapper
    from sglang.srt.models.registry import ModelRegistry
    from sglang.srt.platforms import current_platform
    from sglang.srt.plugins.hook_registry import HookRegistry

    hooks = {
        target: [f"{hook.__module__}.{hook.__qualname__}" for _, hook, _ in HookRegistry._hooks[target]]
        for target in HookRegistry._patched
    }
    return {
        "platform": type(current_platform).__name__,
        "kernels": _platform_key(),
        "sgl_kernel": Path(sgl_kernel.common_ops.__file__).parent.name,
        "flashinfer": import_module("flashinfer").__file__,
        "deep_gemm": deep_gemm_wrapper.ENABLE_JIT_DEEPGEMM,
        "models": {
            name: f"{cls.__module__}.{cls.__qualname__}" for name, cls in ModelRegistry.models.items()
        },
        "hooks": hooks,
        "objects": {name: _described(name) for name in objects},
        "modules": sorted(name for name in sys.modules if name.startswith("serval_sglang.")),
    }


def _described(name: str) -> str:
    try:
        found = resolve_name(name)
    except (ImportError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{found.__module__}.{found.__qualname__}" if hasattr(found, "__qualname__") else repr(type(found))


def _machine(name: str, question: Question, folder: Path) -> dict[str, dict[str, Any]]:
    """Resolve all command lines for one GPU."""
    programs = folder / name
    programs.mkdir()
    write_nvidia_smi(programs, GPUS[name], count=_GPUS_OF_A_MACHINE)
    lines = question["command_lines"][name]
    return {line: _forked(_resolved, arguments, name, programs) for line, arguments in lines.items()}


def _resolved(arguments: Sequence[str], name: str, programs: Path) -> dict[str, Any]:
    """Return values of SGLang's flags after its whole resolution, and kernels that the layers then choose."""
    imitate(GPUS[name], count=_GPUS_OF_A_MACHINE)
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"

    from sglang.srt.server_args import prepare_server_args

    server_args = prepare_server_args(list(arguments))
    server_args.resolve_once()
    return {"arguments": server_args.resolved_dict(), "layers": _layers(server_args)}


def _layers(server_args: Any) -> dict[str, Any]:
    """Name the kernels of linear layers and experts, as a scheduler's model chooses them when it is built."""
    from sglang.srt.arg_groups.overrides import model_config_of
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.layers.moe import initialize_moe_config
    from sglang.srt.layers.moe.moe_runner.base import MoeRunnerConfig
    from sglang.srt.layers.quantization.fp8 import Fp8LinearMethod, Fp8MoEMethod
    from sglang.srt.layers.quantization.fp8_utils import initialize_fp8_gemm_config
    from sglang.srt.layers.quantization.unquant import UnquantizedFusedMoEMethod
    from sglang.srt.model_loader.loader import _get_quantization_config
    from sglang.srt.runtime_context import publish

    publish(server_args, role="scheduler")
    initialize_moe_config()
    initialize_fp8_gemm_config()
    quantization = _get_quantization_config(model_config_of(server_args), LoadConfig())
    layer = SimpleNamespace()
    if quantization is None:
        experts, linear = UnquantizedFusedMoEMethod(), "unquantized"
    else:
        experts, method = Fp8MoEMethod(quantization), Fp8LinearMethod(quantization)
        linear = "marlin" if method.use_marlin else method.w8a8_block_fp8_linear.__name__
    experts.create_moe_runner(layer, MoeRunnerConfig())
    return {"experts": experts.get_moe_runner_backend(layer).value, "linear": linear}


if __name__ == "__main__":
    main()
