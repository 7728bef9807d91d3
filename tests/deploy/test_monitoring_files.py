"""Files of Prometheus, Alertmanager and Grafana: their own checkers accept them, and their names exist."""

import importlib.metadata
import importlib.util
import json
import re
from itertools import combinations, product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from serval_testkit.gateway import running_gateway
from serval_testkit.metric_names import (
    DASHBOARD_FILES,
    DEPLOY,
    RULE_FILES,
    dashboard_queries,
    metrics_of,
    panels,
    rules,
    scraped_metrics_needed,
)
from serval_testkit.operator_tools import OperatorTools
from serval_testkit.promtool import PromtoolTest, run_promtool_tests


def dashboard_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_dashboards", DEPLOY / "grafana/build_dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_promtool_accepts_rules_and_config(tools: OperatorTools) -> None:
    tools.run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)
    for name in ("prometheus.yml", "prometheus-two-engines.yml"):
        tools.run("promtool", "check", "config", DEPLOY / "prometheus" / name)


def test_amtool_accepts_the_routes(tools: OperatorTools) -> None:
    tools.run("amtool", "check-config", DEPLOY / "alertmanager/alertmanager.yml")


@pytest.mark.parametrize(("severity", "receiver"), [("critical", "pager"), ("warning", "tickets")])
def test_alerts_are_routed_by_severity(severity: str, receiver: str, tools: OperatorTools) -> None:
    config = DEPLOY / "alertmanager/alertmanager.yml"
    tools.run(
        "amtool", "config", "routes", "test", f"--config.file={config}", f"--verify.receivers={receiver}",
        f"severity={severity}", "alertname=ServalX",
    )  # fmt: skip


def test_inhibition_names_real_alerts() -> None:
    names = {rule["alert"] for rule in rules() if "alert" in rule}
    config = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
    for rule in config["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            label, _, pattern = re.split(r"\s*(=~|!=|=)\s*", matcher, maxsplit=1)
            if label == "alertname":
                assert any(re.fullmatch(pattern.strip('"'), name) for name in names), matcher


def test_watchdog_goes_to_the_dead_mans_switch(tools: OperatorTools) -> None:
    config = DEPLOY / "alertmanager/alertmanager.yml"
    tools.run(
        "amtool", "config", "routes", "test", f"--config.file={config}",
        "--verify.receivers=dead-mans-switch", "severity=none", "alertname=ServalWatchdog",
    )  # fmt: skip


def test_jobs_of_rules_and_dashboards_are_scraped() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    jobs = {scrape["job_name"] for scrape in config["scrape_configs"]}
    expressions = [rule["expr"] for rule in rules()] + [query for _, query in dashboard_queries()]
    used = {job for expression in expressions for job in re.findall(r'\bjob="([^"]*)"', expression)}
    assert used == {"serval-gateway", "serval-engine"}
    assert used <= jobs


def adapter_metrics() -> set[str]:
    """Metrics of the engine's plugin beside SGLang's; tests/e2e/test_monitoring.py scrapes them."""
    sources = (DEPLOY.parent / "model_adapter/serval_sglang").rglob("*.py")
    return {name for path in sources for name in re.findall(r'"(serval_engine_\w+)"', path.read_text())}


async def test_used_gateway_metrics_exist_in_a_scrape() -> None:
    async with running_gateway() as gateway:
        page = await (await gateway.get("/metrics")).text()
    declared = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    wanted = {name for name in scraped_metrics_needed() if name.startswith("serval_")} - adapter_metrics()
    assert wanted
    for name in wanted:
        # A series with labels appears with its first event, its declaration from the start.
        assert {name, re.sub(r"_(bucket|sum|count)$", "", name)} & declared, name


def test_used_engine_metrics_exist_in_sglang() -> None:
    """Quick check against SGLang's source; tests/e2e/test_monitoring.py asks a running engine."""
    folder = Path(str(importlib.metadata.distribution("sglang").locate_file("sglang/srt/observability")))
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    declared = set(re.findall(r"sglang:[a-z_A-Z0-9]+", source))
    wanted = {name for name in scraped_metrics_needed() if name.startswith("sglang:")}
    assert wanted
    for name in wanted:
        assert {name, re.sub(r"_(bucket|sum|count)$", "", name)} & declared, name


def test_used_recorded_series_are_recorded() -> None:
    assert not {name for name in scraped_metrics_needed() if name.startswith("serval:")}


def test_recorded_series_are_used() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = [rule["expr"] for rule in rules()] + [query for _, query in dashboard_queries()]
    assert recorded == {name for expression in expressions for name in metrics_of(expression)} & recorded


def test_first_token_buckets_include_the_objective() -> None:
    """The ratio of slow first tokens needs a bucket that ends at the objective."""
    from serval.telemetry.metrics import Metrics

    page = Metrics().exposition(engine_up=True).decode()
    assert 'serval_time_to_first_token_seconds_bucket{le="2.5"}' in page


def test_dashboards_are_up_to_date() -> None:
    builder = dashboard_builder()
    made = {f"{uid}.json": builder.file_text(dashboard) for uid, dashboard in builder.dashboards().items()}
    assert made == {path.name: path.read_text() for path in DASHBOARD_FILES}, (
        "run: python deploy/grafana/build_dashboards.py"
    )


def test_dashboard_queries_are_promql(tools: OperatorTools, tmp_path: Path) -> None:
    rules_of_queries = [
        {"record": f"x:{number}", "expr": query} for number, (_, query) in enumerate(dashboard_queries())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules_of_queries}]}))
    tools.run("promtool", "check", "rules", path)


@pytest.mark.parametrize("path", DASHBOARD_FILES, ids=lambda path: path.stem)
def test_dashboard_has_descriptions_and_no_overlapping_panels(path: Path) -> None:
    dashboard: dict[str, Any] = json.loads(path.read_text())
    assert dashboard["uid"] == path.stem
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        assert panel["description"]
        for target in panel["targets"]:
            # A fixed data source would show "No data" in other installations.
            assert target["datasource"]["uid"] == "${datasource}"
            assert set(re.findall(r"\$([a-z]+)", target["expr"])) <= names
    for one, other in combinations(dashboard["panels"], 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_panels_are_inside_the_grid() -> None:
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for _, panel in panels())


def test_engines_ready_counts_engines_and_not_gateways(tools: OperatorTools, tmp_path: Path) -> None:
    """Two engines with two gateways each, one of them lost: half of the engines are ready."""
    query = dict(dashboard_queries())["serval-overview / Engines ready"]
    gateway_of = 'serval_engine_up{{job="serval-gateway",release="r",engine="{}",instance="{}"}}'
    series = {
        gateway_of.format(engine, f"{engine}{gateway}"): up
        for engine, up in (("0", "1x5"), ("1", "0x5"))
        for gateway in "abc"[: 1 + int(engine)]
    }
    case = PromtoolTest("one of two", series, f"{query} * 100", "5m", {"{}": 50})
    run_promtool_tests(tools, tmp_path, [case], rule_files=RULE_FILES, step="1m")


def test_heat_maps_have_the_unit_of_their_axis() -> None:
    maps = [panel for _, panel in panels() if panel["type"] == "heatmap"]
    assert maps
    for panel in maps:
        assert panel["options"]["yAxis"]["unit"] == "s"
        assert panel["fieldConfig"]["defaults"]["unit"] == "reqps"


def test_page_of_engines_compares_versions(tools: OperatorTools, tmp_path: Path) -> None:
    """All requests of the old version are answered at once; those of the new one wait longest, and fail."""
    page = (DEPLOY.parent / "server" / "ENGINES.md").read_text()
    failures, first_token = page.split("```text\nsum by (version)")[1].split("```")[0].strip().split("\n\n")
    series: dict[str, str] = {}
    for gateway, (place, version) in product("ab", (("engine-0", "old"), ("engine-7", "new"))):
        where = f'instance="{gateway}",place="{place}"'
        outcome, bound, within = ("finished", "0", 6) if version == "old" else ("failed", "2", 0)
        series |= {
            f'serval_place_info{{{where},version="{version}"}}': "1x30",
            f'serval_place_info{{{where},version="before"}}': "0x30",
            f'serval_place_requests_total{{{where},outcome="{outcome}"}}': "0+6x30",
            f'serval_place_first_token_seconds_bucket{{{where},le="{bound}"}}': f"0+{within}x30",
            f'serval_place_first_token_seconds_bucket{{{where},le="+Inf"}}': "0+6x30",
        }
    tests = [
        PromtoolTest("failures", series, f"sum by (version){failures}", "20m", {'{version="new"}': 1}),
        PromtoolTest("first token", series, first_token, "20m", {'{version="old"}': 0, '{version="new"}': 2}),
    ]
    run_promtool_tests(tools, tmp_path, tests, rule_files=[], step="1m")
