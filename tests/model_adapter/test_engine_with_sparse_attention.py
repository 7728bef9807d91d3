"""The real SGLang with the plugin serves sparse attention on a CPU as the reference computes it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from serval_sglang.checkpoint.io import load_reference
from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.known_configs import TINY_SPARSE
from serval_sglang.reference import ReferenceModel
from serval_sglang.verify.cases import Case, Prompts, Request, run_case, verification_cases
from serval_sglang.verify.engine import Engine, running_engine
from serval_sglang.verify.verification import judge

pytestmark = pytest.mark.engine

CHUNK = 64
PROMPTS = Prompts(TINY_SPARSE)
# All of a prompt of five chunks, and steps of decoding after one: most tokens are left out for most queries.
LONG = Case(
    "long prompts", ((Request(PROMPTS.make(290, seed=1), 1),), (Request(PROMPTS.make(150, seed=2), 12),))
)
# Cached prefixes of up to 90 tokens, prompts of up to 200, and decode steps of 16 requests in a batch.
(CONCURRENT,) = (
    case for case in verification_cases(TINY_SPARSE, chunk=CHUNK) if case.name == "16 requests at once"
)
CASES = {case.name: case for case in (LONG, CONCURRENT)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sparse")
    write_tiny_checkpoint(directory, seed=7, dtype=torch.float32, sparse=True)
    return directory


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> ReferenceModel:
    return load_reference(checkpoint)


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    # Decode steps ride along in prefill batches, and every third step retracts requests.
    with running_engine(
        checkpoint,
        dtype="float32",
        extra_flags=[f"--chunked-prefill-size={CHUNK}"],
        environment={"SGLANG_TEST_RETRACT": "1"},
    ) as engine:
        yield engine


@pytest.mark.parametrize("name", CASES)
def test_engine_agrees_with_the_reference(engine: Engine, reference: ReferenceModel, name: str) -> None:
    result = judge(name, run_case(engine, CASES[name]), reference, dtype="float32")
    print(result)
    assert result.agrees, result
    assert result.difference.positions > 200
