"""The comparison with the reference sees the mistakes it is there for: engines that make them are found out.

One engine at TP 2 whose layers are patched by a plugin of its own; a file says which mistake it makes. Its
n-gram tables are large, so that what a rank holds while it loads can be measured beside.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from serval_sglang.checkpoint.io import load_reference
from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.known_configs import TINY
from serval_sglang.reference import ReferenceModel
from serval_sglang.verify.cases import Prompts
from serval_sglang.verify.engine import Engine, generate, running_engine
from serval_sglang.verify.verification import BOUNDS, CaseResult, judge
from serval_testkit.engine_plugins import with_plugins, write_plugin

pytestmark = pytest.mark.engine

# Tables of 300 MB; each rank holds one half.
TABLE_RATIO = 2600
# Memory that a process needs for other things meanwhile: threads, buffers of the allocator.
SLACK_BYTES = 24 * 2**20

PLUGIN = """
import json
import os
import threading
from pathlib import Path

import safetensors
import serval_sglang.layers.moe as moe
from serval_sglang.layers.ngram_embedding import NgramEmbedding
from serval_sglang.models.longcat_flash import LongcatFlashForCausalLM


def memory():
    # Without pages of mapped files, which can be dropped at any time.
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


def load_measured(self, weights):
    before = peak = memory()
    loaded = threading.Event()

    def watch():
        nonlocal peak
        while not loaded.wait(0.002):
            peak = max(peak, memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        load_weights(self, weights)
    finally:
        loaded.set()
        watcher.join()
    peak = max(peak, memory())
    held = sum(p.numel() * p.element_size() for p in (*self.parameters(), *self.buffers()))
    report = json.dumps({"held": held, "growth": peak - before, "opened": opened})
    Path(os.environ["SERVAL_TEST_MEMORY"], str(os.getpid())).write_text(report)


load_weights = LongcatFlashForCausalLM.load_weights
opened = []
safe_open = safetensors.safe_open


def counted(file, *arguments, **named):
    opened.append(Path(file).name)
    return safe_open(file, *arguments, **named)


def mistake():
    return Path(os.environ["SERVAL_TEST_MISTAKE"]).read_text()


def register():
    adds_identity, route_topk, embed = moe._adds_identity, moe.route_topk, NgramEmbedding.forward

    def on_every_rank():
        return mistake() == "identity experts on every rank" or adds_identity()

    def unscaled(*arguments, scaling_factor, **named):
        routing = route_topk(*arguments, scaling_factor=scaling_factor, **named)
        if mistake() == "identity experts without their factor":
            return routing._replace(identity_weight=routing.identity_weight / scaling_factor)
        return routing

    def another_modulus(self, *arguments):
        right = self.hash_moduli
        if mistake() == "one hash modulus":
            self.hash_moduli = right.clone()
            self.hash_moduli[5] -= 2
        embedded = embed(self, *arguments)
        self.hash_moduli = right
        return embedded

    safetensors.safe_open = counted
    LongcatFlashForCausalLM.load_weights = load_measured
    moe._adds_identity, moe.route_topk, NgramEmbedding.forward = on_every_rank, unscaled, another_modulus
"""


@dataclass(frozen=True)
class Patched:
    engine: Engine
    reference: ReferenceModel
    mistake_file: Path
    memory_folder: Path
    checkpoint: Path

    def judge(self, mistake: str, *, seed: int) -> CaseResult:
        """Prompts differ for each mistake, so that none hits a prefix cached by an earlier one."""
        self.mistake_file.write_text(mistake)
        prompts = Prompts(TINY, seed)
        answers = [generate(self.engine, prompts.make(30 + i, seed=i), max_new_tokens=4) for i in range(4)]
        result = judge(mistake, answers, self.reference, dtype="float32")
        print(result)
        return result


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patched]:
    folder = tmp_path_factory.mktemp("patched")
    plugins = folder / "plugins"
    write_plugin(plugins, "mistakes", PLUGIN)
    mistake_file = folder / "mistake"
    mistake_file.write_text("none")
    checkpoint = folder / "checkpoint"
    write_tiny_checkpoint(checkpoint, seed=0, dtype=torch.float32, ngram_vocab_size_ratio=TABLE_RATIO)
    memory_folder = folder / "memory"
    memory_folder.mkdir()
    environment = {
        **with_plugins(plugins),
        "SERVAL_TEST_MISTAKE": str(mistake_file),
        "SERVAL_TEST_MEMORY": str(memory_folder),
    }
    with running_engine(checkpoint, dtype="float32", tp=2, environment=environment) as engine:
        yield Patched(engine, load_reference(checkpoint), mistake_file, memory_folder, checkpoint)


def test_patched_engine_agrees_without_mistake(patched: Patched) -> None:
    assert patched.judge("none", seed=1).agrees


@pytest.mark.parametrize(
    ("mistake", "seed"),
    [
        ("one hash modulus", 2),
        ("identity experts without their factor", 3),
        ("identity experts on every rank", 4),
    ],
)
def test_verification_detects_mistake(patched: Patched, mistake: str, seed: int) -> None:
    result = patched.judge(mistake, seed=seed)
    assert not result.agrees
    assert result.difference.maximum > 100 * BOUNDS["float32"].value
    assert result.difference.mean > 2 * BOUNDS["bfloat16"].value


def test_loading_opens_shard_once_and_takes_little_memory(patched: Patched) -> None:
    reports = [json.loads(file.read_text()) for file in patched.memory_folder.iterdir()]
    print(reports)
    assert len(reports) == 2
    stored = (patched.checkpoint / "model.safetensors").stat().st_size
    for report in reports:
        # The file is mapped, so pages that a rank does not copy cost it no memory.
        assert report["opened"] == ["model.safetensors"]
        assert report["held"] < 0.6 * stored
        assert report["growth"] <= 1.1 * report["held"] + SLACK_BYTES
