"""Write Grafana's dashboards from dashboards.yaml: `python deploy/grafana/build_dashboards.py`.

It adds the common parts of all panels (grid, ids, data source). A test compares the files.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, PANEL_WIDTH, PANEL_HEIGHT, STAT_WIDTH, STAT_HEIGHT = 24, 8, 8, 4, 4
RELEASE = 'namespace=~"$namespace",release=~"$release"'
MODEL = f'{RELEASE},model=~"$model"'
CHOSEN = f'{MODEL},engine=~"$engine"'
# The chart puts `monitoring.prometheusRule.runbookBaseUrl` in its place.
RUNBOOKS = "https://runbooks.invalid"


# Values of serval-overview's and serval-places' engines.
STATES = {
    "0": {"text": "away", "color": "red", "index": 0},
    "1": {"text": "ready", "color": "green", "index": 1},
    "2": {"text": "draining", "color": "yellow", "index": 2},
    "3": {"text": "loading", "color": "blue", "index": 3},
    "4": {"text": "failing", "color": "orange", "index": 4},
    "5": {"text": "mismatch", "color": "purple", "index": 5},
}
# Objectives and thresholds are drawn as broken red lines.
LIMIT_LINES = {
    "matcher": {"id": "byRegexp", "options": "/^(objective|threshold)/"},
    "properties": [
        {"id": "color", "value": {"mode": "fixed", "fixedColor": "red"}},
        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}},
    ],
}


def dashboards() -> dict[str, dict[str, Any]]:
    """Dashboards by uid, as Grafana imports them."""
    described = yaml.safe_load((HERE / "dashboards.yaml").read_text(encoding="utf-8"))
    annotations = described.pop("annotations")
    return {uid: dashboard(uid, spec, annotations) for uid, spec in described.items()}


def dashboard(uid: str, spec: dict[str, Any], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """Dashboard in Grafana's JSON model."""
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        query_variable("namespace", 'label_values(up{job=~"serval-.*"}, namespace)'),
        query_variable("model", 'label_values(up{job=~"serval-.*",namespace=~"$namespace"}, model)'),
        query_variable(
            "release",
            'label_values(up{job=~"serval-.*",namespace=~"$namespace",model=~"$model"}, release)',
        ),
        query_variable("engine", f'label_values(up{{job=~"serval-.*",{MODEL}}}, engine)'),
        {"name": "runbooks", "label": "Runbooks at", "type": "textbox", "query": RUNBOOKS, "hide": 2},
    ]
    if "instances" in spec:
        variables.append(
            query_variable("instance", f"label_values({spec['instances']}{{{CHOSEN}}}, instance)")
        )
    return {
        "uid": uid,
        "title": spec["title"],
        "tags": ["serval"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "links": [{"title": "Serval", "type": "dashboards", "tags": ["serval"], "keepTime": True}],
        "templating": {"list": variables},
        "annotations": {"list": [annotation(described) for described in annotations]},
        "panels": panels(spec),
    }


def annotation(described: dict[str, Any]) -> dict[str, Any]:
    """Marks on all graphs: at the times that the series have as values, or while there are series."""
    at_values = described.get("at_values", False)
    expr = with_selectors(described["expr"], by_instance=False)
    return {
        "name": described["name"],
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": described["color"],
        "expr": f"1000 * ({expr})" if at_values else expr,
        "useValueForTime": "on" if at_values else False,
        "titleFormat": described["name"],
        "textFormat": described["text"],
        "step": "60s",
    }


def query_variable(name: str, query: str) -> dict[str, Any]:
    """Variable filled from Prometheus. `All` is `.*`, which also matches series without the label."""
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def panels(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Single numbers in rows of six, then graphs in rows of three."""
    by_instance = "instances" in spec
    made = []
    stats = [{"kind": "stat", "queries": {"": stat["expr"]}, **stat} for stat in spec.get("stats", [])]
    top = -(-len(stats) * STAT_WIDTH // COLUMNS) * STAT_HEIGHT
    for group, width, height, y0 in (
        (stats, STAT_WIDTH, STAT_HEIGHT, 0),
        (spec["panels"], PANEL_WIDTH, PANEL_HEIGHT, top),
    ):
        for place, described in enumerate(group):
            row, column = divmod(place * width, COLUMNS)
            grid = {"x": column, "y": y0 + row * height, "w": width, "h": height}
            made.append(panel(described, number=len(made) + 1, grid=grid, by_instance=by_instance))
    return made


def panel(
    described: dict[str, Any], *, number: int, grid: dict[str, int], by_instance: bool
) -> dict[str, Any]:
    """Panel with its queries lettered A, B, C."""
    kind = described.get("kind", "timeseries")
    return {
        "id": number,
        "title": described["title"],
        "description": described["about"],
        "type": kind,
        "gridPos": grid,
        "datasource": DATASOURCE,
        "fieldConfig": field_config(described, kind),
        "options": options(described, kind),
        "transformations": transformations(described) if kind == "table" else [],
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": with_selectors(expr, by_instance=by_instance),
                "legendFormat": legend,
                "format": kind if kind in ("heatmap", "table") else "time_series",
                "instant": kind == "table",
            }
            for place, (legend, expr) in enumerate(queries(described).items())
        ],
    }


def field_config(described: dict[str, Any], kind: str) -> dict[str, Any]:
    """Unit, colours and lines of a panel's values."""
    defaults: dict[str, Any] = {"unit": described["unit"], "min": 0}
    overrides: list[dict[str, Any]] = []
    if kind == "heatmap":
        # The unit of a heat map is that of its vertical axis; its cells hold rates.
        defaults["unit"] = "reqps"
    if kind == "state-timeline":
        defaults["mappings"] = [{"type": "value", "options": STATES}]
    if kind == "table":
        overrides = [runbook_link(described["link"])] if "link" in described else []
    if kind == "timeseries":
        overrides = [LIMIT_LINES]
    if described.get("stacked"):
        defaults["custom"] = {"fillOpacity": 30, "stacking": {"mode": "normal"}}
    if "red_from" in described:
        defaults["thresholds"] = thresholds(described)
        if kind == "timeseries":
            defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    return {"defaults": defaults, "overrides": overrides}


def options(described: dict[str, Any], kind: str) -> dict[str, Any]:
    """Grafana's options of a kind of panel."""
    if kind == "heatmap":
        return {"yAxis": {"unit": described["unit"]}, "cellValues": {"unit": "reqps"}}
    if kind == "stat" and "red_from" in described:
        return {"colorMode": "background", "graphMode": "area"}
    if kind == "state-timeline":
        return {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8}
    return {}


def transformations(described: dict[str, Any]) -> list[dict[str, Any]]:
    """Leave a table the columns in `columns`, in that order."""
    columns = described["columns"]
    return [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": columns}}},
        {"id": "organize", "options": {"indexByName": {name: at for at, name in enumerate(columns)}}},
    ]


def runbook_link(column: str) -> dict[str, Any]:
    """Link from the cells of a column, which hold names of alerts, to their runbooks."""
    link = {"title": "Runbook", "url": "${runbooks}/${__value.raw}.md", "targetBlank": True}
    return {"matcher": {"id": "byName", "options": column}, "properties": [{"id": "links", "value": [link]}]}


def thresholds(described: dict[str, Any]) -> dict[str, Any]:
    """Colours of a panel: red from `red_from`, or below it if `red_below` is true."""
    below, above = ("red", "green") if described.get("red_below") else ("green", "red")
    return {
        "mode": "absolute",
        "steps": [{"color": below, "value": None}, {"color": above, "value": described["red_from"]}],
    }


def queries(described: dict[str, Any]) -> dict[str, str]:
    """PromQL queries by legend."""
    if "quantiles" not in described:
        return dict(described["queries"])
    buckets = f"sum by (le) (rate({described['quantiles']}[$__rate_interval]))"
    found = {f"p{q * 100:.0f}": f"histogram_quantile({q}, {buckets})" for q in (0.5, 0.95, 0.99)}
    return found | described.get("queries", {})


def with_selectors(expr: str, *, by_instance: bool) -> str:
    """Replace the placeholders in `expr` with label matchers."""
    chosen = f'{CHOSEN},instance=~"$instance"' if by_instance else CHOSEN
    for placeholder, selector in (
        ("{GATEWAY", f'job="serval-gateway",{chosen}'),
        ("{ENGINE", f'job="serval-engine",{chosen}'),
        ("{RELEASE", RELEASE),
        ("{MODEL", MODEL),
    ):
        expr = expr.replace(placeholder, "{" + selector)
    return expr


def file_text(made: dict[str, Any]) -> str:
    """Content of a dashboard's file."""
    return json.dumps(made, indent=1) + "\n"


def main() -> None:
    """Write every dashboard."""
    for uid, made in dashboards().items():
        path = HERE / "dashboards" / f"{uid}.json"
        path.write_text(file_text(made), encoding="utf-8")
        print(f"wrote {path.relative_to(HERE)}", file=sys.stderr)


if __name__ == "__main__":
    main()
