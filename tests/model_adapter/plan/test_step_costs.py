"""Seconds of steps: estimates reproduce published figures, and files of measured ones are read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serval_sglang.known_configs import LITE
from serval_sglang.plan import Deployment, PlanError, plan_deployment
from serval_sglang.plan.step_costs import (
    EstimatedCosts,
    MeasuredCosts,
    active_parameters,
    estimated_costs,
    gpu_of,
    read_costs,
)

GIB = 1 << 30
H200 = Deployment(
    config=LITE, gpu_memory_bytes=round(140.4 * GIB), gpus=1, tp=1, ep=1, weight_dtype="fp8", kv_dtype="bf16",
    tables="device", context_tokens=131_072, runtime_bytes=GIB,
)  # fmt: skip


def costs(**changes: object) -> EstimatedCosts:
    return estimated_costs(plan_deployment(replace(H200, **changes)))  # type: ignore[arg-type]


# sgl-project/sglang#30247: FP8 on one H200, 1,024 tokens in, 128 out.
@pytest.mark.parametrize(
    ("batch", "input_per_s", "output_per_s"),
    [(1, 15_613, 244.8), (16, 71_021, 2_104.7), (64, 65_509, 5_549.5)],
)
def test_estimate_is_within_a_tenth_of_the_published_figures(
    batch: int, input_per_s: float, output_per_s: float
) -> None:
    found = costs()
    # Half of the answer is there on average.
    assert batch / found.decode_s(batch, batch * (1024 + 64)) == pytest.approx(output_per_s, rel=0.1)
    tokens = batch * 1024
    chunks = [min(8192, tokens - start) for start in range(0, tokens, 8192)]
    seconds = sum(found.prefill_s(chunk, chunk * 512) for chunk in chunks)
    assert tokens / seconds == pytest.approx(input_per_s, rel=0.1)


def test_estimate_knows_bytes_ranks_and_context() -> None:
    one, two, bf16 = costs(), costs(gpus=2, tp=2), costs(weight_dtype="bf16", tables="host")
    # Weights are shared by ranks, latents are not.
    assert two.experts_s == pytest.approx(one.experts_s / 2)
    assert two.context_token_s == one.context_token_s
    assert one.decode_exchange_s == 0.0 < two.decode_exchange_s
    assert bf16.experts_s == pytest.approx(2 * one.experts_s, rel=0.01)
    assert bf16.prefill_token_s == pytest.approx(2 * one.prefill_token_s, rel=0.01)
    assert one.decode_s(8, 1_000_000) > one.decode_s(8, 1000)
    assert one.prefill_s(100, 1e9) > one.prefill_s(100, 1e3)
    # A large batch touches all experts, once.
    assert one.decode_s(4096, 0) - one.decode_s(2048, 0) < 1e-6


def test_active_parameters_are_those_of_the_model_card() -> None:
    # The card says 2.9 to 4.5 billion, by the number of identity experts chosen.
    assert 2.9e9 < active_parameters(LITE) < 4.5e9


def test_gpu_of_names_the_known_ones() -> None:
    assert [gpu_of(size).name for size in (79.6, 80.0, 139.9, 179.1)] == ["H100", "A100", "H200", "B200"]
    with pytest.raises(PlanError, match=r"H200 \(140.4\).*not of a GPU with 24 GiB; give measured ones with"):
        gpu_of(24)


def test_read_costs_takes_a_file_of_fit(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    written = {
        "decode_base_s": 0.01,
        "decode_request_s": 0.001,
        "prefill_base_s": 0.02,
        "prefill_token_s": 1e-5,
    }
    path.write_text(json.dumps({"costs": {**written, "kv_tokens": 7000}, "trace": {}}))
    found = read_costs(path)
    assert (found.kv_tokens, found.chunk_tokens, found.max_running) == (7000, None, None)
    assert found.costs.decode_s(5, 1e6) == pytest.approx(0.015)
    assert found.costs.prefill_s(1000, 1e6) == pytest.approx(0.03)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"costs": {"decode_base_s": 1}}',
        json.dumps({"costs": dict.fromkeys(MeasuredCosts.__slots__, -1)}),
    ],
)
def test_read_costs_says_which_file_is_wanted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rates.json"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"rates.json holds .*wanted .*a file of `python -m serval_load fit`"
    ):
        read_costs(path)
