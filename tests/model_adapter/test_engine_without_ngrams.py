"""The real engine on a model without n-grams (LongCat-Flash-Chat's structure) against the reference."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from serval_sglang.checkpoint.io import load_reference
from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.config import FLASH_ARCHITECTURE, WITHOUT_NGRAMS
from serval_sglang.metrics.batches import BATCHES_METRIC
from serval_sglang.siblings import ARCHITECTURES
from serval_sglang.verify.cases import run_case, verification_cases
from serval_sglang.verify.engine import Engine, running_engine
from serval_sglang.verify.verification import judge

pytestmark = pytest.mark.engine

CONFIG = ARCHITECTURES[FLASH_ARCHITECTURE].tiny
CHUNK = 64
# The others take engines through the n-gram state, which this one has not.
CASES = {
    case.name: case
    for case in verification_cases(CONFIG, chunk=CHUNK)
    if case.name in ("every position of a prompt", "16 requests at once")
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("flash")
    changes = {"rope_scaling": None, **WITHOUT_NGRAMS}
    assert write_tiny_checkpoint(directory, seed=7, dtype=torch.float32, **changes) == CONFIG
    return directory


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    flags = [f"--chunked-prefill-size={CHUNK}"]
    with running_engine(checkpoint, dtype="float32", extra_flags=flags) as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_engine_agrees_with_reference(engine: Engine, checkpoint: Path, name: str) -> None:
    result = judge(name, run_case(engine, CASES[name]), load_reference(checkpoint), dtype="float32")
    print(result)
    assert result.agrees, result
    # The bound of all engines allows for a thousand times what this one shows.
    assert result.difference.maximum < 1e-4


def test_engine_counts_batches(engine: Engine) -> None:
    before = engine.metric_total(BATCHES_METRIC, kind="decode")
    run_case(engine, CASES["16 requests at once"])
    assert engine.metric_total(BATCHES_METRIC, kind="decode") > before
