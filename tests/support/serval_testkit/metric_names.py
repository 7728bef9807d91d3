"""Names of metrics in PromQL expressions, and the expressions in the files under deploy/."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
RULE_FILES = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
DASHBOARD_FILES = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))

_STRING = re.compile(r'"[^"]*"')
# `serval:` are recording rules, `serval_` the gateway's metrics, `sglang:` the engine's.
_METRIC = re.compile(r"\b(?:serval[_:]|sglang:)[a-zA-Z0-9_:]+")


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that an expression reads, without those that Prometheus itself creates."""
    return set(_METRIC.findall(_STRING.sub('""', expression)))


def rules() -> Iterator[dict[str, Any]]:
    """Yield every recording and alerting rule."""
    for path in RULE_FILES:
        for group in yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["groups"]:
            yield from group["rules"]


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerting rules by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every panel, with the uid of its dashboard."""
    for path in DASHBOARD_FILES:
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            yield dashboard["uid"], panel


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Yield every query of the dashboards with its location; Grafana's variables are filled in."""
    for path in DASHBOARD_FILES:
        dashboard = json.loads(path.read_text())
        for mark in dashboard["annotations"]["list"]:
            yield f"{dashboard['uid']} / {mark['name']}", filled_in(mark["expr"])
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{dashboard['uid']} / {panel['title']}", filled_in(target["expr"])


def filled_in(query: str) -> str:
    """Return the query with everything chosen at the top of a dashboard."""
    query = query.replace("$__rate_interval", "1m")
    return re.sub(r"\$(namespace|model|release|engine|instance)", ".*", query)


def scraped_metrics_needed() -> set[str]:
    """Return the metrics that a rule or dashboard reads and no recording rule creates."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = [rule["expr"] for rule in rules()] + [query for _, query in dashboard_queries()]
    return {name for expression in expressions for name in metrics_of(expression)} - recorded
