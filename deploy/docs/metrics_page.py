"""server/METRICS.md: every metric of the gateway and of the model adapter, read out of their declarations."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram"}
HEAD = """\
# Metrics

<!-- Written by deploy/docs/generate.py. -->

Prometheus reads the gateway's metrics from `/metrics` of its port, or of `SERVAL_METRICS_PORT` if it is set,
and the engine's from `/metrics` of the engine's port. A histogram has `_bucket`, `_sum` and `_count`. With
several workers the gateway's page is the sum over all. Labels take their values from closed sets; none holds
text of a request or a key.

The [dashboards](../deploy/grafana/README.md) draw them, the [rules](../deploy/prometheus/rules) watch them,
and each alert has a [runbook](../deploy/runbooks).
"""
ENGINE = """
The adapter adds these to the engine's page, beside SGLang's own (`sglang:...`; SGLang's documentation has a
page of them, "Production metrics").
"""


@dataclass(frozen=True)
class Metric:
    """One declared metric, named as it is scraped."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def page(gateway: Path, adapter: Path) -> str:
    """The whole page. `gateway` and `adapter`: folders of the two packages."""
    return f"{HEAD}\n## Gateway\n\n{_table(gateway)}\n## Engine\n{ENGINE}\n{_table(adapter)}"


def _table(package: Path) -> str:
    metrics = sorted(declared(package), key=lambda metric: metric.name)
    return "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n" + "".join(map(_row, metrics))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"


def declared(package: Path) -> Iterator[Metric]:
    """Metrics that modules of the package declare with prometheus_client's classes."""
    for module in sorted(package.rglob("*.py")):
        tree = ast.parse(module.read_text())
        classes = KINDS.keys() & set(_names_from_prometheus(tree))
        constants = _constants(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in classes:
                yield _metric(KINDS[node.func.id], node, constants)


def _names_from_prometheus(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client":
            yield from (alias.name for alias in node.names)


def _constants(tree: ast.Module) -> dict[str, str]:
    """Texts that the module gives names to."""
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _metric(kind: str, call: ast.Call, constants: dict[str, str]) -> Metric:
    name, text, *labels = call.args
    labels += [keyword.value for keyword in call.keywords if keyword.arg == "labelnames"]
    base = _text(name, constants)
    return Metric(
        name=f"{base.removesuffix('_total')}_total" if kind == "counter" else base,
        kind=kind,
        labels=tuple(ast.literal_eval(labels[0])) if labels else (),
        help=_text(text, constants),
    )


def _text(node: ast.expr, constants: dict[str, str]) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        # NAME.removesuffix("_total"): the suffix is put back above.
        node = node.func.value
    text = constants[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)
    return str(text)
