"""The Helm chart, rendered by Helm."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from serval_testkit.operator_tools import ROOT, OperatorTools

CHART = ROOT / "helm/serval"
PRESETS = tuple(sorted(path.name for path in CHART.glob("values-*.yaml")))
# The cluster has the Prometheus Operator, so `enabled: auto` of the presets means yes.
OPERATOR = ("--api-versions", "monitoring.coreos.com/v1")
KEYS = ("--set", "auth.keys={sk-serval-chart-test}")

Manifest = dict[str, Any]


@cache
def rendered_text(tools: OperatorTools, *arguments: str | Path) -> str:
    """Return the output of `helm template serval` with the arguments."""
    return tools.run("helm", "template", "serval", CHART, *arguments).stdout


def rendered(tools: OperatorTools, *arguments: str | Path, keys: bool = True) -> list[Manifest]:
    """Return the rendered manifests; an API key is set unless `keys` is False."""
    text = rendered_text(tools, *(KEYS if keys else ()), *arguments)
    # libyaml's loader takes an eighth of the time.
    return [manifest for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader) if manifest]


def preset(tools: OperatorTools, name: str, *arguments: str) -> list[Manifest]:
    """Return the manifests of a preset, for a cluster with the Prometheus Operator."""
    return rendered(tools, "--values", CHART / name, *OPERATOR, *arguments)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return the manifests of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Return the manifest of this kind and name."""
    (found,) = [manifest for manifest in of_kind(manifests, kind) if manifest["metadata"]["name"] == name]
    return found


def pod_specs(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return every pod's spec, by the name of the object that creates the pod."""
    specs = {}
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            specs[manifest["metadata"]["name"]] = manifest["spec"]
        elif manifest["kind"] in {"Deployment", "StatefulSet", "Job"}:
            specs[manifest["metadata"]["name"]] = manifest["spec"]["template"]["spec"]
        elif manifest["kind"] == "LeaderWorkerSet":
            parts = manifest["spec"]["leaderWorkerTemplate"]
            specs[manifest["metadata"]["name"]] = parts["leaderTemplate"]["spec"]
            specs[f"{manifest['metadata']['name']}-worker"] = parts["workerTemplate"]["spec"]
    return specs


def environment(pod: Manifest) -> dict[str, str]:
    """Return the variables with plain values of a pod's first container."""
    return {entry["name"]: entry.get("value", "") for entry in pod["containers"][0].get("env", [])}


def selected(selector: Manifest, labels: dict[str, dict[str, str]]) -> set[str]:
    """Return the names of the objects whose labels match a selector."""
    return {name for name, own in labels.items() if _matches(selector, own)}


def _matches(selector: Manifest, labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )
