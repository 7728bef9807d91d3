"""The table of CUDA extensions, compared with what the model's path asks SGLang to build."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serval_sglang.cuda_extensions.needed import (
    WeightFormat,
    deep_gemm_shapes,
    needed_extensions,
    needed_on_gpu,
)
from serval_sglang.known_configs import LITE

pytest.importorskip("sglang", reason="needs SGLang")

ROOT = Path(__file__).parents[3]
HOPPER = (9, 0)


@pytest.fixture(scope="module")
def path() -> dict[str, Any]:
    """Requests of the model's path on Hopper, from a process that SGLang takes for one with a GPU."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests/support"),
        "SGLANG_EXTERNAL_MODEL_PACKAGE": "serval_sglang.models",
        # Inductor would compile the sum over experts, for a GPU.
        "TORCHDYNAMO_DISABLE": "1",
    }
    program = Path(__file__).parent / "traced_path.py"
    done = subprocess.run(
        [sys.executable, "-P", program, "9.0"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_table_lists_exactly_what_the_path_asks_for(path: dict[str, Any], weights: str) -> None:
    listed = path["listed"][weights]
    of_flashinfer = [row for row in listed if row[0].startswith("flashinfer.")]
    assert sorted(row for row in listed if row not in of_flashinfer) == sorted(
        path["asked"][weights]["sglang"]
    )
    assert of_flashinfer == [["flashinfer.jit.sampling:gen_sampling_module", []]]
    assert path["asked"][weights]["flashinfer"] == ["sampling"]


@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_table_names_what_only_a_gpu_compiles(path: dict[str, Any], weights: WeightFormat) -> None:
    asked = path["asked"][weights]
    shapes = sorted(deep_gemm_shapes(LITE)) if weights == "fp8" else []
    assert sorted(map(tuple, asked["deep_gemm"])) == shapes
    named = "\n".join(found.name for found in needed_on_gpu(LITE, weights=weights, capability=HOPPER))
    assert ("DeepGEMM" in named) == (weights == "fp8")
    assert sorted(asked["norms"]) == [512, 1536, 3072]
    assert "widths 3072, 1536, 512" in named


def test_fp8_is_refused_where_other_code_computes_it() -> None:
    with pytest.raises(ValueError, match=r"FP8 weights are listed for .* got \(8, 0\)"):
        needed_extensions(LITE, weights="fp8", capability=(8, 0))
