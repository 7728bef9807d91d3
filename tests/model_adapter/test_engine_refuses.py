"""An engine that would not serve Serval's model does not start, says why, and leaves nothing running."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.verify.engine import EngineFailed, generate, running_engine

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(directory, seed=1, dtype=torch.float32, num_layers=1)
    return directory


def refusal(checkpoint: Path, environment: Mapping[str, str] | None = None) -> str:
    """What the engine says when it does not start."""
    with (
        pytest.raises(EngineFailed, match="the engine ended with 1") as error,
        running_engine(checkpoint, dtype="float32", environment=environment),
    ):
        pytest.fail("the engine became healthy")
    return str(error.value)


def test_the_plugin_left_out_of_the_whitelist(checkpoint: Path) -> None:
    assert "engine refused: SGLang would serve" in refusal(checkpoint, {"SGLANG_PLUGINS": "another"})


def test_another_package_provides_the_architecture(checkpoint: Path, tmp_path: Path) -> None:
    package = tmp_path / "other_models"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.py").write_text(
        "class LongcatFlashForCausalLM: pass\nEntryClass = LongcatFlashForCausalLM\n"
    )
    said = refusal(checkpoint, {"SGLANG_EXTERNAL_MODEL_PACKAGE": "other_models", "PYTHONPATH": str(tmp_path)})
    assert "other_models.model.LongcatFlashForCausalLM already provides" in said


def test_another_version_of_sglang(checkpoint: Path, tmp_path: Path) -> None:
    metadata = tmp_path / "sglang-0.5.24.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 0.5.24\n")
    said = refusal(checkpoint, {"PYTHONPATH": str(tmp_path)})
    assert "replaces parts of SGLang 0.5.23" in said
    assert "'0.5.24'" in said


def test_a_checkpoint_that_lacks_a_tensor_and_has_one_too_many(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    (weights,) = checkpoint.glob("*.safetensors")
    tensors = load_file(weights)
    tensors["model.layers.0.self_attn.0.k_norm.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / weights.name)
    said = refusal(tmp_path)
    assert "lacks 1 tensors: model.norm.weight" in said
    assert "holds 1 unknown ones: model.layers.0.self_attn.0.k_norm.weight" in said


def test_a_config_that_lacks_a_field(checkpoint: Path, tmp_path: Path) -> None:
    for source in checkpoint.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    del config["zero_expert_num"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "zero_expert_num must be given" in refusal(tmp_path)


@pytest.fixture
def processes() -> Iterator[list[psutil.Process]]:
    """Filled by the test; on the way out, none of them may be left."""
    watched: list[psutil.Process] = []
    yield watched
    _, alive = psutil.wait_procs(watched, timeout=60)
    left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        process.kill()
    assert left == []


def test_a_dead_scheduler_ends_the_engine(checkpoint: Path, processes: list[psutil.Process]) -> None:
    with (  # noqa: PT012
        pytest.raises(EngineFailed, match="exit code 1") as error,
        running_engine(checkpoint, dtype="float32") as engine,
    ):
        generate(engine, [5, 6, 7], max_new_tokens=2)
        launcher = psutil.Process(engine.launcher_pid)
        (main_process,) = launcher.children()
        processes.extend([launcher, main_process, *main_process.children(recursive=True)])
        (scheduler,) = [p for p in processes if "scheduler" in " ".join(p.cmdline())]
        scheduler.send_signal(signal.SIGKILL)
        main_process.wait(60)
        # Not to be stopped by us: it has to end by itself. Reaping it is left to running_engine.
        while launcher.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.1)
    assert "Subprocess scheduler_0" in str(error.value)
    assert "the engine has stopped" in str(error.value)


def test_a_stopped_engine_leaves_nothing_running(checkpoint: Path, processes: list[psutil.Process]) -> None:
    with running_engine(checkpoint, dtype="float32") as engine:
        launcher = psutil.Process(engine.launcher_pid)
        processes.extend([launcher, *launcher.children(recursive=True)])
        assert len(processes) >= 4  # launcher, main process, scheduler, detokenizer
