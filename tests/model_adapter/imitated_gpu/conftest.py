"""One start of an engine on imitated GPUs, which all tests of this folder look at."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from serval_sglang.checkpoint.fp8 import QUANTIZATION_CONFIG
from serval_sglang.config import LongcatConfig
from serval_sglang.demo import checkpoint_directory
from serval_sglang.known_configs import LITE
from serval_sglang.launch import engine_environment, parse_options, sglang_arguments
from serval_sglang.options import EngineOptions
from serval_sglang.plugin.registration import _HOOKS
from serval_testkit.imitated_engine import Answers, Question
from serval_testkit.imitated_gpu import GPUS, build_libcuda
from serval_testkit.repository import ROOT

_TRITON = "--attention-backend=triton"


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Run `serval_testkit.imitated_engine` once, with the environment of an engine on a GPU."""
    if find_spec("sgl_kernel") is None:
        pytest.skip("needs SGLang and its kernels, which are installed with the engine")
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler (c++), with which every engine on a GPU starts")
    folder = tmp_path_factory.mktemp("imitated")
    build_libcuda(folder)
    models = {
        "lite": _write_config(folder / "lite", LITE),
        "lite_fp8": _write_config(folder / "lite_fp8", LITE, quantization_config=dict(QUANTIZATION_CONFIG)),
        "demo": checkpoint_directory(),
    }
    written = folder / "answers.json"
    inherited = {**os.environ, **_variables(folder)}
    question = Question(
        command_lines=_command_lines(models),
        objects=_objects(),
        cpu_environment=engine_environment(_options(models["demo"], "cpu"), inherited, [0]),
    )
    command = [sys.executable, "-P", "-m", "serval_testkit.imitated_engine", str(written)]
    environment = engine_environment(_options(models["lite"], "cuda"), inherited, [0])
    subprocess.run(command, input=json.dumps(question), text=True, check=True, env=environment)
    found: Answers = json.loads(written.read_text())
    return found


def _variables(folder: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": str(ROOT / "tests" / "support"),
        "LD_LIBRARY_PATH": str(folder),
        "CUDA_VISIBLE_DEVICES": "0,1",
        # Triton and flashinfer prepare for the GPU that they see.
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "FLASHINFER_WORKSPACE_BASE": str(folder),
        # Without threads, processes can be forked.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def _command_lines(models: dict[str, Path]) -> dict[str, dict[str, list[str]]]:
    """Return SGLang's command lines by GPU and name, as `serval engine` makes them from these options."""

    def line(model: str, *options: str) -> list[str]:
        return sglang_arguments(_options(models[model], "cuda", *options))

    two = ("--tp=2", "--ep=2")
    usual = {"lite": line("lite", *two), "lite_fp8": line("lite_fp8"), "demo": line("demo")}
    lines = {gpu: dict(usual) for gpu in GPUS}
    lines["H100"] |= {
        "lite_short_chunks": line(
            "lite", *two, "--", "--chunked-prefill-size", "4096", "--context-length", "131072"
        ),
        "lite_drafts": line("lite", *two, "--mtp-steps=3"),
        "lite_prefill_graphs": line("lite", *two, "--", "--cuda-graph-backend-prefill=full"),
        "demo_without_our_backend": [flag for flag in usual["demo"] if flag != _TRITON],
        "demo_operators_backend": line("demo", "--", "--attention-backend", "flashinfer"),
    }
    return lines


def _options(model: Path, device: str, *options: str) -> EngineOptions:
    return parse_options([f"--model={model}", f"--device={device}", *options])


def _write_config(folder: Path, config: LongcatConfig, **fields: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), **fields}))
    return folder


def _objects() -> Sequence[str]:
    """Return the targets of the plugin's hooks, and the objects of UPSTREAM.md as `module:name`."""
    row = re.compile(r"\| `([\w/]+)\.py` \| `([\w.]+)` \| \d")
    found = row.findall((ROOT / "model_adapter" / "UPSTREAM.md").read_text(encoding="utf-8"))
    rows = [f"sglang.{file.replace('/', '.').removesuffix('.__init__')}:{name}" for file, name in found]
    return [*_HOOKS, *rows]
