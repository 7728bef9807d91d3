"""An engine that would not serve Serval's model does not start, says why, and leaves nothing running."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.verify.engine import EngineFailed, generate, running_engine
from serval_testkit.engine_plugins import write_counting_plugin

pytestmark = pytest.mark.engine

# Names the format, so that the launcher leaves the weights to SGLang's loader.
LOADER_CHECKS = ("--load-format=safetensors",)

# Checkpoints, with the environment variables of the engine that starts on them.
Start = tuple[Path, dict[str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(directory, seed=1, dtype=torch.float32, num_layers=1)
    return directory


def without_the_plugin(checkpoint: Path, _: Path) -> Start:
    return checkpoint, {"SGLANG_PLUGINS": "another"}


def with_another_package(checkpoint: Path, folder: Path) -> Start:
    package = folder / "other_models"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.py").write_text(
        "class LongcatFlashForCausalLM: pass\nEntryClass = LongcatFlashForCausalLM\n"
    )
    return checkpoint, {"SGLANG_EXTERNAL_MODEL_PACKAGE": "other_models", "PYTHONPATH": str(folder)}


def with_another_version(checkpoint: Path, folder: Path) -> Start:
    metadata = folder / "sglang-0.5.24.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 0.5.24\n")
    return checkpoint, {"PYTHONPATH": str(folder)}


def with_a_misnamed_tensor(checkpoint: Path, folder: Path) -> Start:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    (weights,) = checkpoint.glob("*.safetensors")
    tensors = load_file(weights)
    tensors["model.layers.0.self_attn.0.k_norm.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / weights.name)
    return folder, {}


def without_a_field(checkpoint: Path, folder: Path) -> Start:
    for source in checkpoint.iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    del config["zero_expert_num"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder, {}


WRONG = (
    without_the_plugin,
    with_another_package,
    with_another_version,
    with_a_misnamed_tensor,
    without_a_field,
)


@pytest.fixture(scope="module")
def refusals(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[Callable[..., Start], Future[str]]]:
    """Output of each engine that fails to start. Two run at a time, because most are a single process."""
    starts = {wrong: wrong(checkpoint, tmp_path_factory.mktemp("wrong")) for wrong in WRONG}
    with ThreadPoolExecutor(2) as pool:
        yield {wrong: pool.submit(refusal, *start) for wrong, start in starts.items()}


def refusal(checkpoint: Path, environment: Mapping[str, str]) -> str:
    with (
        pytest.raises(EngineFailed, match="the engine ended with 1") as error,
        running_engine(checkpoint, dtype="float32", environment=environment, extra_flags=LOADER_CHECKS),
    ):
        pytest.fail("the engine became healthy")
    return str(error.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (without_the_plugin, ["engine refused: SGLang would serve"]),
        (with_another_package, ["other_models.model.LongcatFlashForCausalLM already provides"]),
        (with_another_version, ["replaces parts of SGLang 0.5.23", "'0.5.24'"]),
        (
            with_a_misnamed_tensor,
            [
                "lacks 1 tensors: model.norm.weight",
                "holds 1 unknown ones: model.layers.0.self_attn.0.k_norm.weight",
            ],
        ),
        (without_a_field, ["zero_expert_num must be given"]),
    ],
)
def test_engine_refuses_to_serve_another_model(
    refusals: Mapping[Callable[..., Start], Future[str]], wrong: Callable[..., Start], said: list[str]
) -> None:
    found = refusals[wrong].result()
    assert [part for part in said if part not in found] == [], found


@pytest.fixture
def processes() -> Iterator[list[psutil.Process]]:
    """A list for the test to fill; at the end none of the processes may be left."""
    watched: list[psutil.Process] = []
    yield watched
    _, alive = psutil.wait_procs(watched, timeout=60)
    left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        process.kill()
    assert left == []


def test_engine_ends_with_its_scheduler(checkpoint: Path, processes: list[psutil.Process]) -> None:
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
        # The engine must end by itself. running_engine reaps it.
        while launcher.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.1)
    assert "Subprocess scheduler_0" in str(error.value)
    assert "the engine has stopped" in str(error.value)


def test_engine_leaves_nothing_running_when_stopped(
    checkpoint: Path, processes: list[psutil.Process], tmp_path: Path
) -> None:
    environment = write_counting_plugin(tmp_path)
    with running_engine(checkpoint, dtype="float32", environment=environment) as engine:
        launcher = psutil.Process(engine.launcher_pid)
        processes.extend([launcher, *launcher.children(recursive=True)])
        assert len(processes) >= 4  # launcher, main process, scheduler, detokenizer
        # The others are copies of the main process.
        (main_process,) = launcher.children()
        registered = Path(environment["SERVAL_TEST_REGISTERED"]).read_text()
        assert registered.split() == [str(main_process.pid)]
