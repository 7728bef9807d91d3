"""SGLang's whole resolution of our command lines on imitated GPUs: the values in resolved.toml.

Pages and commands that speak of these values say the same: SERVING.md, `serval doctor` and `serval plan`.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from serval.doctor.gpus import find_gpus, flashinfer
from serval_sglang.config import LongcatConfig
from serval_sglang.demo import checkpoint_directory
from serval_sglang.known_configs import LITE
from serval_sglang.plan import Deployment, plan_deployment
from serval_sglang.plan.reserve import BatchLimits, reserve_bytes
from serval_testkit.imitated_engine import Answers
from serval_testkit.imitated_gpu import GPUS, write_nvidia_smi
from serval_testkit.repository import ROOT

pytestmark = pytest.mark.timeout(900)  # the first test waits for `answers`

TABLE = tomllib.loads((Path(__file__).parent / "resolved.toml").read_text(encoding="utf-8"))
CASES = [(gpu, line) for gpu in GPUS for line in TABLE[gpu] if line != "every"]
DEMO = LongcatConfig.from_json_file(checkpoint_directory() / "config.json")


def expected(gpu: str, line: str) -> dict[str, Any]:
    return {**TABLE["every"], **TABLE[gpu]["every"], **TABLE[gpu][line]}


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved command line in the words of the table."""
    arguments, layers = found["arguments"], found["layers"]
    graphs = arguments["cuda_graph_config"]
    attention = {
        arguments[f"{phase}_attention_backend"] or arguments["attention_backend"]
        for phase in ("prefill", "decode")
    }
    return {
        "attention": "/".join(sorted(attention)),
        "sampling": arguments["sampling_backend"],
        "prefill_graphs": graphs["prefill"]["backend"],
        "decode_graphs": graphs["decode"]["backend"],
        "largest_decode_graph": graphs["decode"]["max_bs"],
        "chunked_prefill_size": arguments["chunked_prefill_size"],
        "mem_fraction_static": arguments["mem_fraction_static"],
        "page_size": arguments["page_size"],
        "overlap_schedule": not arguments["disable_overlap_schedule"],
        "radix_cache": not arguments["disable_radix_cache"],
        "mixed_chunks": arguments["enable_mixed_chunk"],
        "kv_cache_dtype": arguments["kv_cache_dtype"],
        "moe_a2a_backend": arguments["moe_a2a_backend"],
        "allreduce_fusion": arguments["flashinfer_allreduce_fusion_backend"] or "none",
        "boundary_reduction": arguments["boundary_reduction"],
        "grammar": arguments["grammar_backend"],
        **layers,
    }


def test_table_has_every_command_line(answers: Answers) -> None:
    resolved = {(gpu, line) for gpu, lines in answers["resolved"].items() for line in lines}
    assert resolved == set(CASES)


@pytest.mark.parametrize(("gpu", "line"), CASES)
def test_arguments_resolve_to_the_table(answers: Answers, gpu: str, line: str) -> None:
    assert shown(answers["resolved"][gpu][line]) == expected(gpu, line)


@pytest.mark.parametrize("gpu", GPUS)
def test_decode_graphs_have_the_batch_sizes_of_the_table(answers: Answers, gpu: str) -> None:
    graphs = answers["resolved"][gpu]["lite"]["arguments"]["cuda_graph_config"]["decode"]
    assert graphs["bs"] == TABLE["decode_graphs"][str(graphs["max_bs"])]


PLANNED: dict[str, dict[str, Any]] = {
    "lite": {"config": LITE, "tp": 2, "ep": 2},
    "lite_fp8": {"config": LITE, "tp": 1, "ep": 1, "weight_dtype": "fp8"},
    "lite_short_chunks": {"config": LITE, "tp": 2, "ep": 2, "limits": BatchLimits(4096, 256)},
    "lite_drafts": {"config": LITE, "tp": 2, "ep": 2, "mtp_steps": 3},
    "demo": {"config": DEMO, "tp": 1, "ep": 1},
}


@pytest.mark.parametrize(("gpu", "line"), [case for case in CASES if case[1] in PLANNED])
def test_plan_keeps_the_reserve_that_sglang_keeps(answers: Answers, gpu: str, line: str) -> None:
    memory = GPUS[gpu].memory_bytes
    fields = {"weight_dtype": "bf16", "gpus": PLANNED[line]["tp"], **PLANNED[line]}
    plan = plan_deployment(
        Deployment(
            **fields, gpu_memory_bytes=memory, runtime_bytes=0, context_tokens=4096, kv_dtype="bf16",
            tables="device",
        )
    )  # fmt: skip
    found = shown(answers["resolved"][gpu][line])
    assert plan.limits == BatchLimits(found["chunked_prefill_size"], found["largest_decode_graph"])
    kept = reserve_bytes(plan.limits, memory, tp=PLANNED[line]["tp"])
    assert found["mem_fraction_static"] == round(1 - kept / memory, 3)
    # With drafts the plan adds the graphs that SGLang's rule does not know.
    assert (plan.reserve_bytes > kept) == ("mtp_steps" in PLANNED[line])


@pytest.mark.parametrize("gpu", GPUS)
def test_doctor_names_the_backends_that_sglang_chooses(
    answers: Answers, gpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nvidia_smi(tmp_path, GPUS[gpu], count=1)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = shown(answers["resolved"][gpu]["lite"])
    says = flashinfer(find_gpus()).says
    assert f"attention: {found['attention']}; sampling: {found['sampling']})" in says


@pytest.mark.parametrize("gpu", GPUS)
def test_serving_page_names_the_backends_that_sglang_chooses(answers: Answers, gpu: str) -> None:
    page = (ROOT / "model_adapter" / "SERVING.md").read_text(encoding="utf-8")
    major, _ = GPUS[gpu].capability
    rows = re.findall(rf"^\| .*{gpu}.* \| .*\b{major}\.x.* \| .*`(\w+)`.* \| (\w+) \|$", page, re.MULTILINE)
    found = shown(answers["resolved"][gpu]["lite"])
    assert rows == [(found["attention"], found["sampling"])]
