"""Upgrades of the chart with `--reuse-values`, from every earlier chart in the repository's history."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from serval_testkit.chart import CHART, KEYS, of_kind
from serval_testkit.operator_tools import ROOT, OperatorTools

VALUES = "helm/serval/values.yaml"
DATABASES = ("--set", "keyDatabase.existingSecret=db,limits.existingSecret=redis")


@cache
def earlier_values() -> dict[str, str]:
    """Values of today's chart and every earlier one, by the commit that wrote them; equal ones once."""
    git = ("git", "-C", str(ROOT))
    log = subprocess.run(
        [*git, "log", "--format=%h", "--", VALUES], capture_output=True, text=True, check=False
    )
    found = {"today": (ROOT / VALUES).read_text()}
    for commit in log.stdout.split():
        shown = subprocess.run(
            [*git, "show", f"{commit}:{VALUES}"], capture_output=True, text=True, check=False
        )
        if shown.returncode == 0 and shown.stdout not in found.values():
            found[commit] = shown.stdout
    return found


def upgraded(
    tools: OperatorTools, folder: Path, values: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Render today's chart with earlier default values in place of its own, as `--reuse-values` does."""
    chart = folder / "serval"
    shutil.copytree(CHART, chart)
    (chart / "values.yaml").write_text(values)
    return tools.run("helm", "template", "serval", chart, *KEYS, *arguments, check=False)


def ports(manifests: list[dict[str, Any]]) -> list[Any]:
    return [
        port.get("port")
        for policy in of_kind(manifests, "NetworkPolicy")
        for direction in ("ingress", "egress")
        for rule in policy["spec"].get(direction, [])
        for port in rule.get("ports", [])
    ]


@pytest.mark.skipif(
    len(earlier_values()) == 1, reason="needs the repository's history (git clone without --depth)"
)
def test_reused_values_open_no_port(tools: OperatorTools, tmp_path: Path) -> None:
    """They render, or are refused by name; a rule without a port would open all of them."""
    rendered = 0
    for commit, values in earlier_values().items():
        done = upgraded(tools, tmp_path / commit, values, *DATABASES)
        if done.returncode == 0:
            rendered += 1
            manifests = yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)
            found = ports([manifest for manifest in manifests if manifest])
            assert found
            assert None not in found, commit
        else:
            assert "missing propert" in done.stderr, (commit, done.stderr)
    assert rendered, "today's own values do not render"


def test_template_refuses_a_rule_without_a_port_even_without_a_schema(
    tools: OperatorTools, tmp_path: Path
) -> None:
    values = (CHART / "values.yaml").read_text()
    done = upgraded(
        tools, tmp_path, values, *DATABASES, "--set", "limits.port=null", "--skip-schema-validation"
    )
    assert done.returncode != 0
    assert "limits.port: set it, or upgrade with --reset-then-reuse-values" in done.stderr


def test_pages_upgrade_with_todays_defaults() -> None:
    """`--reuse-values` keeps the earlier chart's defaults, and new values are missing."""
    for page in (ROOT / "helm/serval/README.md", ROOT / "deploy/operations.md"):
        for line in page.read_text().splitlines():
            if "helm upgrade " in line and "`helm upgrade`" not in line:
                assert "--reset-then-reuse-values" in line, line
