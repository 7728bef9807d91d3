from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import serval_sglang.transformers  # noqa: F401  # registers
from serval_sglang.checkpoint.io import load_reference
from serval_sglang.checkpoint.tiny import write_tiny_checkpoint

SEED = 2


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in Meituan's layout, with an MTP layer."""
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=SEED, dtype=torch.float32, mtp=True)
    return directory


@pytest.fixture(scope="session")
def model(folder: Path) -> Any:
    """The model by Transformers, in float32. Tests must not change it."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="session")
def reference(folder: Path) -> Any:
    """Serval's reference model with the same weights."""
    return load_reference(folder)
