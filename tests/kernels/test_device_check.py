"""The checks for a GPU at full size: rehearsed under Triton's interpreter, and shown wrong results."""

import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from serval_kernels.combine_identity import combine_identity_reference
from serval_kernels.device_check import layers, steps, tables
from serval_kernels.device_check.__main__ import CHECKS, main
from serval_kernels.ngram_embed import ngram_embed_reference
from serval_kernels.ngram_gather import ngram_gather_reference
from serval_kernels.ngram_step import decode_step_reference, extend_step_reference
from serval_kernels.route_topk import route_topk_reference

CPU = torch.device("cpu")
ROWS = 2_000


# Check, module and name of the kernel's function, its definition, and a small change of the result.
Change = tuple[str, ModuleType, str, Callable[..., Any], Callable[[Any, Any, Any], object]]
CHANGES: list[Change] = [
    ("decode", steps, "decode_step_triton", decode_step_reference, lambda out, given, _: out[1, 3].add_(1)),
    (
        "decode",
        steps,
        "decode_step_triton",
        decode_step_reference,
        lambda out, given, options: given[1][options["slots"][0], 2].add_(1),
    ),
    ("verify", steps, "decode_step_triton", decode_step_reference, lambda out, given, _: out[6, 3].add_(1)),
    (
        "verify",
        steps,
        "decode_step_triton",
        decode_step_reference,
        # A draft that is stored one column too late.
        lambda out, given, options: given[1].copy_(given[1].roll(1, 1)),
    ),
    (
        "prefill",
        steps,
        "extend_step_triton",
        extend_step_reference,
        lambda out, given, options: given[1][options["slots"][2], 0].add_(1),
    ),
    (
        "router",
        layers,
        "route_topk_triton",
        route_topk_reference,
        lambda out, *_: out.identity_weight.mul_(1.001),
    ),
    ("router", layers, "route_topk_triton", route_topk_reference, lambda out, *_: out.expert_ids.add_(1)),
    (
        "experts",
        layers,
        "combine_identity_triton",
        combine_identity_reference,
        lambda out, *_: out[0, 7].mul_(1.02),
    ),
    ("tables", tables, "ngram_gather_triton", ngram_gather_reference, lambda out, *_: out[-1, -1].add_(1)),
    (
        "8-bit tables",
        tables,
        "ngram_gather_triton",
        ngram_gather_reference,
        lambda out, *_: out[0, 0].add_(0.5),
    ),
    ("embedding", tables, "ngram_embed", ngram_embed_reference, lambda out, *_: out[0, 0].add_(0.1)),
    (
        "host tables",
        tables,
        "ngram_gather_triton",
        ngram_gather_reference,
        lambda out, *_: out[-1, -1].add_(1),
    ),
]


def test_device_check_is_green_under_interpreter() -> None:
    command = [sys.executable, "-m", "serval_kernels.device_check", "--device", "cpu", "--rows", "5000"]
    # Tables of the rehearsal are small: more threads mostly wait for one another.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[1:-1]] == [f"green  {name}" for name in CHECKS]
    assert lines[-1] == f"{len(CHECKS)} checks are green"


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0])
def test_device_check_finds_a_wrong_result(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    check, module, name, definition, spoil = change

    def wrong(*given: Any, **options: Any) -> Any:
        result = definition(*given, **options)
        spoil(result, given, options)
        return result

    monkeypatch.setattr(module, name, definition)
    CHECKS[check](CPU, ROWS)
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError):
        CHECKS[check](CPU, ROWS)


def test_device_check_refuses_a_cpu_without_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu"]) == 2
    assert "TRITON_INTERPRET=1" in capsys.readouterr().err


def test_row_ids_cover_offsets_that_pass_32_bits() -> None:
    ids = tables._row_ids(122_683_536, 4, CPU).flatten().tolist()
    assert {0, 122_683_535, 2**31 // 256, 2**31 // 256 - 1, 2**32 // 256} <= set(ids)
