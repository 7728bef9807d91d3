"""Figures of deploy/capacity.md against `serval plan` for the presets."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from serval_testkit.chart import CHART
from serval_testkit.operator_tools import ROOT

ROWS = re.findall(
    r"^\| .* \| `(values-\S+\.yaml)` \| ([\d,]+) \| (\d+) \| (\d+) \|$",
    (ROOT / "deploy/capacity.md").read_text(),
    re.MULTILINE,
)
# Facts that presets lack: GPU memory and dtype.
MACHINES = {
    "values-2xh100.yaml": ["--gpu-memory-gib=79.6"],
    "values-8xh100.yaml": ["--gpu-memory-gib=79.6"],
    "values-1gpu-fp8.yaml": ["--gpu-memory-gib=140.4", "--dtype=fp8"],
}


def test_presets_with_gpus_have_a_row() -> None:
    assert {row[0] for row in ROWS} == set(MACHINES)


@pytest.mark.parametrize(("name", "tokens", "short", "long"), ROWS, ids=[row[0] for row in ROWS])
def test_figures_match_the_plan(name: str, tokens: str, short: str, long: str) -> None:
    engine = yaml.safe_load((CHART / name).read_text())["engine"]
    command = [
        sys.executable, "-m", "serval", "plan", "--json", *MACHINES[name],
        f"--gpus={engine['gpus']}", f"--tp={engine['gpus']}", f"--ep={engine['ep']}",
        f"--context={engine['contextLength']}", f"--chunked-prefill-size={engine['chunkedPrefillSize']}",
    ]  # fmt: skip
    plan = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert plan["kv_cache"]["tokens"] == int(tokens.replace(",", ""))
    assert {"4096": int(short), "32768": int(long)}.items() <= plan["concurrent_requests"].items()
