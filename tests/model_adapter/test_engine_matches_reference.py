"""The real SGLang with the plugin against the reference model, in every configuration that a CPU can run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serval_sglang.checkpoint.io import load_reference
from serval_sglang.checkpoint.quantization import Layout
from serval_sglang.checkpoint.quantize import quantize_tables
from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.known_configs import TINY
from serval_sglang.reference import ReferenceModel
from serval_sglang.verify.cases import Prompts, run_case, verification_cases
from serval_sglang.verify.engine import DType, Engine, Generation, generate, running_engine
from serval_sglang.verify.verification import judge

pytestmark = pytest.mark.engine


@dataclass(frozen=True)
class Configuration:
    """`chunk` is in tokens; each engine has another, so that all are covered by few engines."""

    id: str
    dtype: DType
    chunk: int | None
    tp: int = 1
    ep: int = 1
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    config_changes: Mapping[str, object] = field(default_factory=dict)
    table_codes: torch.dtype | None = None
    fp8: bool = False
    packed: Layout | None = None
    spawned: bool = False  # see serval_testkit.engine_plugins


CONFIGURATIONS = (
    # Pages of 64 tokens are SGLang's choice on Blackwell: a cached prefix ends only there.
    Configuration("float32-unchunked", "float32", None, flags=("--page-size=64",)),
    # Chunks end anywhere, decode steps ride along in prefill batches, and every third step retracts requests.
    Configuration(
        "float32-chunks-of-64-mixed-retracting",
        "float32",
        64,
        flags=("--enable-mixed-chunk",),
        environment={"SGLANG_TEST_RETRACT": "1"},
    ),
    Configuration(
        "bfloat16-resaved",
        "bfloat16",
        64,
        # Keys that transformers adds to config.json when it saves a copy.
        config_changes={
            "model_type": "longcat_flash_ngram",
            "num_hidden_layers": 6,
            "auto_map": {"AutoConfig": "configuration_longcat_ngram.LongcatFlashNgramConfig"},
        },
    ),
    # Chunks shorter than the look-back of three tokens, and as long; of two in test_checkpoint_verify.py.
    # Formats that each rank loads in its own way: tables as `serval checkpoint quantize-tables` writes them,
    # four bits as AutoRound packs them, FP8. The reference reads the same codes. The first engine's processes
    # are spawned, as on a GPU: several ranks, and hooks that each of them puts in place itself.
    Configuration(
        "float32-tp2-chunks-of-1-mixed-packed-int8-tables",
        "float32",
        1,
        tp=2,
        flags=("--enable-mixed-chunk",),
        environment={"SERVAL_NGRAM_TABLES": "host"},
        table_codes=torch.int8,
        packed="gptq",
        spawned=True,
    ),
    Configuration(
        "float32-ep2-chunks-of-3-mixed-fp8",
        "float32",
        3,
        tp=2,
        ep=2,
        flags=("--enable-mixed-chunk",),
        fp8=True,
    ),
    # Each rank has requests of its own; their experts' tokens and the vocabulary are shared.
    Configuration(
        "float32-attention-dp2-ep2-packed",
        "float32",
        64,
        tp=2,
        ep=2,
        flags=("--enable-dp-attention", "--dp-size=2"),
        packed="compressed-tensors",
    ),
)


@dataclass(frozen=True)
class Subject:
    """A configuration, the engine running it, and the model it must agree with."""

    configuration: Configuration
    checkpoint: Path
    engine: Engine
    reference: ReferenceModel

    def assert_close(self, name: str, generations: Sequence[Generation]) -> None:
        result = judge(name, generations, self.reference, dtype=self.configuration.dtype)
        print(result)
        assert result.agrees, result


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids=lambda configuration: configuration.id)
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, spawned: dict[str, str]
) -> Iterator[Subject]:
    configuration: Configuration = request.param
    directory: Path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory, configuration)
    # SGLang cannot size its memory on a CPU without chunks; no prompt is as long as this.
    chunk = 4096 if configuration.chunk is None else configuration.chunk
    if configuration.table_codes is not None:
        written, directory = directory, tmp_path_factory.mktemp("quantised")
        quantize_tables(written, directory, dtype=configuration.table_codes)
    with running_engine(
        directory,
        dtype=configuration.dtype,
        tp=configuration.tp,
        ep=configuration.ep,
        extra_flags=[f"--chunked-prefill-size={chunk}", *configuration.flags],
        environment={**configuration.environment, **(spawned if configuration.spawned else {})},
    ) as engine:
        yield Subject(configuration, directory, engine, load_reference(directory))


def write_checkpoint(directory: Path, configuration: Configuration) -> None:
    config = write_tiny_checkpoint(
        directory,
        seed=7,
        dtype=getattr(torch, configuration.dtype),
        fp8=configuration.fp8,
        packed=configuration.packed,
    )
    (weights,) = directory.glob("*.safetensors")
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        # Latents so small that the eps of their norms matters; the norms' outputs stay as large.
        if configuration.fp8:
            break
        if name.endswith("q_a_proj.weight"):
            tensor.mul_(1e-3)
        if name.endswith("kv_a_proj_with_mqa.weight"):
            tensor[: config.kv_lora_rank].mul_(1e-3)
    save_file(tensors, weights)
    config_file = directory / "config.json"
    source = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**source, **configuration.config_changes}))


@pytest.mark.parametrize("number", range(len(verification_cases(TINY, chunk=64, mixed=True))))
def test_engine_agrees_with_reference(subject: Subject, number: int) -> None:
    mixed = "--enable-mixed-chunk" in subject.configuration.flags
    cases = verification_cases(TINY, chunk=subject.configuration.chunk, mixed=mixed)
    if number >= len(cases):
        pytest.skip("without chunks there are no boundaries, or no mixed batches: run another configuration")
    case = cases[number]
    subject.assert_close(case.name, run_case(subject.engine, case))


def test_engine_retracted_requests(subject: Subject) -> None:
    retracted = subject.engine.metric_total("sglang:num_retracted_requests_total")
    assert (retracted > 0) == ("SGLANG_TEST_RETRACT" in subject.configuration.environment)


def test_engine_loads_weights_twice_without_change(subject: Subject) -> None:
    """Also clears the prefix cache."""
    answer = subject.engine.post("/update_weights_from_disk", {"model_path": str(subject.checkpoint)})
    assert answer["success"], answer
    prompt = Prompts(TINY).make(40, seed=200)
    subject.assert_close("after a second load", [generate(subject.engine, prompt, max_new_tokens=6)])
