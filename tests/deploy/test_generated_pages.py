"""Pages that deploy/docs/generate.py writes: they are up to date, and nothing is missing from them."""

import json
import re
import subprocess
import sys
from pathlib import Path

from serval.setting_names import OTHER_VARIABLES, variable_of
from serval.settings import Settings
from serval.telemetry.metrics import Metrics
from serval.terminal.stages import FIRST_STAGE, STAGES
from serval_testkit.operator_tools import ROOT

GENERATE = ROOT / "deploy/docs/generate.py"
RECORDING = (ROOT / "deploy/docs/first_minute.txt").read_text()
README = (ROOT / "README.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.+) \|$", re.MULTILINE)


def metrics_table(title: str) -> dict[str, tuple[str, set[str]]]:
    """Metric -> its type and labels, as the section of server/METRICS.md has them."""
    section = (ROOT / "server/METRICS.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    rows = ROW.findall(section)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, GENERATE, "--check"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}python deploy/docs/generate.py writes them"


def test_settings_page_has_every_setting() -> None:
    page = (ROOT / "server/SETTINGS.md").read_text()
    rows = re.findall(r"^\| `(SERVAL_\w+)`", page, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert {variable_of(name) for name in Settings.model_fields} <= set(rows)


def test_settings_page_has_every_variable_of_the_code() -> None:
    page = (ROOT / "server/SETTINGS.md").read_text()
    folders = ("server", "model_adapter", "kernels", "deploy/setup")
    sources = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sh")
    ]
    named = {
        name for path in sources for name in re.findall(r"\bSERVAL_[A-Z]+(?:_[A-Z]+)*\b", path.read_text())
    }
    named -= set(OTHER_VARIABLES["docker/"])  # docker/.env.example explains them.
    assert named <= set(re.findall(r"SERVAL_[A-Z_]+\b", page))


def test_metrics_page_has_what_a_gateway_exports() -> None:
    exported = Metrics().exposition(engine_up=True).decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", exported, re.MULTILINE))
    table = metrics_table("Gateway")
    # A counter and a histogram come with the time of their first sample.
    assert {name: kind for name, (kind, _) in table.items()} == {
        name: kind for name, kind in types.items() if not name.endswith("_created")
    }
    for sample, labels in re.findall(r"^(\w+)\{(.+)\} ", exported, re.MULTILINE):
        name = sample if sample in table else re.sub(r"_(bucket|sum|count|created)$", "", sample)
        if name in table:
            assert set(re.findall(r"(\w+)=", labels)) - {"le"} == table[name][1]


def test_metrics_page_has_what_the_adapter_declares() -> None:
    modules = (ROOT / "model_adapter/serval_sglang").rglob("*.py")
    declared = {name for path in modules for name in re.findall(r'"(serval_engine_\w+)"', path.read_text())}
    assert set(metrics_table("Engine")) == declared


def test_recording_answers_as_the_readme_says() -> None:
    """The README's answers are compared with a running server in tests/e2e/test_readme.py."""
    lines = RECORDING.splitlines()
    (shown,) = re.findall(r"^```json\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert json.loads(shown)["choices"][0]["message"]["content"] in lines
    (printed,) = re.findall(r"^```text\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert printed.splitlines()[-1] in lines


def test_recording_has_the_lines_that_the_programs_print() -> None:
    stages = re.findall(r"^✓ (.+) \d+\.\d s$", RECORDING, re.MULTILINE)
    # There are no CUDA graphs on a CPU.
    assert stages == [
        FIRST_STAGE,
        *(stage for _, stage in STAGES if stage != "capturing CUDA graphs"),
        "ready",
    ]
    serve = (ROOT / "server/serval/cli/serve.py").read_text()
    assert " is ready on " in serve
    assert re.search(r"^longcat-flash-lite-demo is ready on cpu ─+$", RECORDING, re.MULTILINE)
    assert Path(GENERATE.parent / "first_minute.svg").read_text().count("<svg") == 1
