"""A tuning on a CPU, in a process whose Triton interprets kernels, and SGLang reading its files."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

REHEARSAL = Path(__file__).parent / "rehearsal.py"
BEST = {
    "BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 32, "num_warps": 4,
    "num_stages": 3,
}  # fmt: skip

pytestmark = pytest.mark.skipif(find_spec("sglang") is None, reason="needs SGLang")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning") / "tuned"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(REHEARSAL), str(folder)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert "rejected: error 0." in finished.stderr
    assert "| 5 | 40.0 | 20.0 | 2.00 | 4 (1) | " in finished.stdout
    return folder


@pytest.fixture(scope="module")
def found(tuned: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tuned / "found.json").read_text())
    assert content["code"] == 0
    return content


def test_tuning_writes_file_under_name_that_sglang_reads(tuned: Path) -> None:
    folder = tuned / "configs" / f"triton_{version('triton').replace('.', '_')}"
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "E=4,N=128,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128].json",
        "E=128,N=1024,device_name=NVIDIA_H200.json",
    }


def test_sglang_chooses_fastest_right_launch_for_both_products(found: dict[str, Any]) -> None:
    """The launch that would have been faster gave wrong results."""
    up, (down, _) = found["chosen"]["5"]
    assert up == down == BEST


def test_sglang_keeps_its_default_for_sizes_that_are_not_tuned(found: dict[str, Any]) -> None:
    assert found["chosen"]["900"][0] == found["default"] != BEST


def test_sglang_finds_file_of_bf16_experts_of_two_ranks(found: dict[str, Any]) -> None:
    assert found["of_lite"] == {"64": {"BLOCK_SIZE_M": 99}}


def test_tuning_writes_row_of_each_size(tuned: Path) -> None:
    (row,) = [json.loads(text) for text in (tuned / "rows.jsonl").read_text().splitlines()]
    assert (row["what"], row["tokens"], row["check"]) == ("moe", 5, "ok")
    assert (row["us"], row["default_us"], row["launch"]) == (pytest.approx(20), pytest.approx(40), BEST)
