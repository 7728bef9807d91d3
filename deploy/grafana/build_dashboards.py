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
CHOSEN = f'{RELEASE},engine=~"$engine"'


def dashboards() -> dict[str, dict[str, Any]]:
    """Dashboards by uid, as Grafana imports them."""
    described = yaml.safe_load((HERE / "dashboards.yaml").read_text(encoding="utf-8"))
    return {uid: dashboard(uid, spec) for uid, spec in described.items()}


def dashboard(uid: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Dashboard in Grafana's JSON model."""
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        query_variable("namespace", 'label_values(up{job=~"serval-.*"}, namespace)'),
        query_variable("release", 'label_values(up{job=~"serval-.*",namespace=~"$namespace"}, release)'),
        query_variable("engine", f'label_values(up{{job=~"serval-.*",{RELEASE}}}, engine)'),
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
        "panels": panels(spec),
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
    stats = [{**stat, "kind": "stat", "queries": {"": stat["expr"]}} for stat in spec.get("stats", [])]
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
    defaults: dict[str, Any] = {"unit": described["unit"], "min": 0}
    if described.get("stacked"):
        defaults["custom"] = {"fillOpacity": 30, "stacking": {"mode": "normal"}}
    options: dict[str, Any] = {}
    if kind == "heatmap":
        # The unit of a heat map is that of its vertical axis; its cells hold rates.
        options = {"yAxis": {"unit": described["unit"]}, "cellValues": {"unit": "reqps"}}
        defaults["unit"] = "reqps"
    if "red_from" in described:
        defaults["thresholds"] = thresholds(described)
        if kind == "stat":
            options = {"colorMode": "background", "graphMode": "area"}
        else:
            defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    return {
        "id": number,
        "title": described["title"],
        "description": described["about"],
        "type": kind,
        "gridPos": grid,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": with_selectors(expr, by_instance=by_instance),
                "legendFormat": legend,
                "format": "heatmap" if kind == "heatmap" else "time_series",
            }
            for place, (legend, expr) in enumerate(queries(described).items())
        ],
    }


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
