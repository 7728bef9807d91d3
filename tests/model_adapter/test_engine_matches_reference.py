"""The real SGLang with the plugin against the reference model, in every configuration a CPU can run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serval_sglang.checkpoint.io import load_reference
from serval_sglang.checkpoint.quantize import quantize_tables
from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.reference import ReferenceModel
from serval_testkit.engine import (
    DType,
    Engine,
    Generation,
    generate,
    reload_weights,
    running_engine,
)
from serval_testkit.engine_comparison import difference, random_prompt, rounding_in_bfloat16

pytestmark = pytest.mark.engine

# Around the look-back of three tokens, around a chunk of 64, and past YaRN's original context of 256.
LENGTHS = (1, 2, 3, 4, 5, 17, 63, 64, 65, 66, 67, 130, 300, 600)
STEPS = 6


@dataclass(frozen=True)
class Configuration:
    id: str
    dtype: DType
    tp: int = 1
    ep: int = 1
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    config_changes: Mapping[str, object] = field(default_factory=dict)
    table_codes: torch.dtype | None = None


CONFIGURATIONS = (
    Configuration("float32", "float32"),
    # Chunks end anywhere, decode steps ride along in prefill batches, and every third step retracts requests.
    Configuration(
        "float32-chunked-mixed-retracting",
        "float32",
        flags=("--chunked-prefill-size=64", "--enable-mixed-chunk"),
        environment={"SGLANG_TEST_RETRACT": "1"},
    ),
    Configuration(
        "bfloat16-resaved",
        "bfloat16",
        # What transformers adds to config.json when it saves a copy.
        config_changes={
            "model_type": "longcat_flash_ngram",
            "num_hidden_layers": 6,
            "auto_map": {"AutoConfig": "configuration_longcat_ngram.LongcatFlashNgramConfig"},
        },
    ),
    Configuration("float32-tp2", "float32", tp=2),
    # What `serval checkpoint quantize-tables` writes; the reference has the values that its codes stand for.
    Configuration(
        "float32-tp2-int8-tables",
        "float32",
        tp=2,
        environment={"SERVAL_NGRAM_TABLES": "host"},
        table_codes=torch.int8,
    ),
    Configuration("float32-ep2", "float32", tp=2, ep=2),
)


@dataclass(frozen=True)
class Subject:
    """A configuration, the engine running it, and the model it must agree with."""

    configuration: Configuration
    checkpoint: Path
    engine: Engine
    reference: ReferenceModel

    def prompt(self, length: int, *, seed: int = 0) -> list[int]:
        config = self.reference.config
        return random_prompt(
            length, vocab_size=config.vocab_size, eos_token_id=config.eos_token_id, seed=seed
        )

    def assert_close(self, generations: Sequence[Generation]) -> None:
        got = difference(generations, self.reference)
        if self.configuration.dtype == "float32":
            assert got.maximum <= 2e-3, got
        else:
            assert got.mean <= rounding_in_bfloat16(generations, self.reference).mean, got


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids=lambda configuration: configuration.id)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    configuration: Configuration = request.param
    directory: Path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory, configuration)
    if configuration.table_codes is not None:
        written, directory = directory, tmp_path_factory.mktemp("quantised")
        quantize_tables(written, directory, dtype=configuration.table_codes)
    with running_engine(
        directory,
        dtype=configuration.dtype,
        tp=configuration.tp,
        ep=configuration.ep,
        extra_flags=configuration.flags,
        environment=configuration.environment,
    ) as engine:
        yield Subject(configuration, directory, engine, load_reference(directory))


def write_checkpoint(directory: Path, configuration: Configuration) -> None:
    config = write_tiny_checkpoint(directory, seed=7, dtype=getattr(torch, configuration.dtype))
    (weights,) = directory.glob("*.safetensors")
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        # Latents so small that the eps of their norms decides; what follows the norms stays as large.
        if name.endswith("q_a_proj.weight"):
            tensor.mul_(1e-3)
        if name.endswith("kv_a_proj_with_mqa.weight"):
            tensor[: config.kv_lora_rank].mul_(1e-3)
    save_file(tensors, weights)
    config_file = directory / "config.json"
    source = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**source, **configuration.config_changes}))


def test_decode_steps_after_prompts_of_every_length(subject: Subject) -> None:
    subject.assert_close(
        [generate(subject.engine, subject.prompt(length), max_new_tokens=STEPS) for length in LENGTHS]
    )


def test_every_position_of_a_prompt(subject: Subject) -> None:
    subject.assert_close(
        [generate(subject.engine, subject.prompt(length, seed=1), max_new_tokens=1) for length in LENGTHS]
    )


@pytest.mark.parametrize("shared", [1, 2, 3, 4, 150])
def test_a_cached_prefix_gives_the_look_back_of_what_follows(subject: Subject, shared: int) -> None:
    first = subject.prompt(200, seed=10 + shared)
    second = first[:shared] + subject.prompt(40, seed=20 + shared)
    before = generate(subject.engine, first, max_new_tokens=1)
    after = generate(subject.engine, second, max_new_tokens=STEPS)
    assert after.cached_tokens >= shared
    subject.assert_close([before, after])


def test_concurrent_requests_that_share_prefixes(subject: Subject) -> None:
    common = subject.prompt(90, seed=30)
    prompts = [common[: 30 * (i % 4)] + subject.prompt(5 + 7 * i, seed=40 + i) for i in range(12)]
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda p: generate(subject.engine, p, max_new_tokens=24), prompts))
    subject.assert_close(answers)
    if "SGLANG_TEST_RETRACT" in subject.configuration.environment:
        assert subject.engine.metric_total("sglang:num_retracted_requests_total") > 0


def test_loading_the_weights_a_second_time_changes_nothing(subject: Subject) -> None:
    reload_weights(subject.engine, subject.checkpoint)
    subject.assert_close([generate(subject.engine, subject.prompt(100, seed=60), max_new_tokens=STEPS)])
