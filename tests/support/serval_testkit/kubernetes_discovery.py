"""Documents by which the Kubernetes API says what it serves, for `stand_in_kubernetes`."""

from typing import Any

# Plural of each kind, by API.
Kinds = dict[str, dict[str, str]]

BUILT_IN: Kinds = {
    "v1": {
        "Secret": "secrets", "ConfigMap": "configmaps", "Service": "services", "Pod": "pods",
        "PersistentVolumeClaim": "persistentvolumeclaims",
    },
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"},
}  # fmt: skip
OPERATOR: Kinds = {
    "monitoring.coreos.com/v1": {"ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"}
}
KEDA: Kinds = {"keda.sh/v1alpha1": {"ScaledObject": "scaledobjects"}}
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def discovery(kinds: Kinds) -> dict[str, dict[str, Any]]:
    """Return the documents by their path."""
    groups: dict[str, list[dict[str, str]]] = {}
    for api in kinds:
        group, _, version = api.rpartition("/")
        if group:
            groups.setdefault(group, []).append({"groupVersion": api, "version": version})
    listed = [
        {"name": group, "versions": versions, "preferredVersion": versions[0]}
        for group, versions in groups.items()
    ]
    schemas = {_root(api): {"serverRelativeURL": f"/openapi/v3/{_root(api)}"} for api in kinds}
    documents: dict[str, dict[str, Any]] = {
        "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed},
        "/openapi/v3": {"paths": schemas},
    }
    for api, plurals in kinds.items():
        documents[f"/{_root(api)}"] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api,
            "resources": [
                {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": _VERBS}
                for kind, plural in plurals.items()
            ],
        }
        documents[f"/openapi/v3/{_root(api)}"] = _schema(api, plurals)
    return documents


def _schema(api: str, plurals: dict[str, str]) -> dict[str, Any]:
    """Return as much of a schema as says that the server checks fields itself, so that Helm does not."""
    group, _, version = api.rpartition("/")
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    paths = {
        f"/{_root(api)}/namespaces/{{namespace}}/{plural}/{{name}}": {
            "patch": {
                "parameters": [parameter],
                "responses": {},
                "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
            }
        }
        for kind, plural in plurals.items()
    }
    return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "1"}, "paths": paths}


def _root(api: str) -> str:
    return f"apis/{api}" if "/" in api else f"api/{api}"
