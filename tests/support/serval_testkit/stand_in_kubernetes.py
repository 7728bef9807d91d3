"""A stand-in for the Kubernetes API server, enough for Helm: discovery, objects, server-side apply, what it refuses.

No kubelet, scheduler or controller runs. `settle` does what controllers would to the status of Deployments and
StatefulSets, `scale` what an autoscaler would. Fields are checked with the schemas of the Kubernetes API apart from
this (`kubernetes_api.py`).
"""

import copy
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from serval_testkit.kubernetes_protobuf import is_protobuf, read_secret
from serval_testkit.server_side_apply import ConflictError, InvalidError, Managed

Manifest = dict[str, Any]
AUTOSCALER = "kube-controller-manager"

# Kind and plural by API. Custom kinds are served only if asked for.
BUILT_IN = {
    "v1": {
        "Secret": "secrets", "ConfigMap": "configmaps", "Service": "services", "Pod": "pods",
        "PersistentVolumeClaim": "persistentvolumeclaims",
    },
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"},
}  # fmt: skip
OPERATOR = {
    "monitoring.coreos.com/v1": {"ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"}
}
KEDA = {"keda.sh/v1alpha1": {"ScaledObject": "scaledobjects"}}

# Fields below `spec` that may change; all others of these kinds may not.
_MUTABLE = {
    "StatefulSet": {
        "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "minReadySeconds",
        "persistentVolumeClaimRetentionPolicy",
    },
    "PersistentVolumeClaim": {"resources"},
}  # fmt: skip
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
_LABEL_LENGTH = 63


@dataclass
class StandInKubernetes:
    """Objects of one cluster, by API, plural, namespace and name."""

    kinds: dict[str, dict[str, str]]
    objects: dict[tuple[str, str, str, str], Managed] = field(default_factory=dict)
    url: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def all_of(self, kind: str) -> dict[str, Manifest]:
        """Return the objects of a kind, by name."""
        with self.lock:
            values = [managed.value for managed in self.objects.values()]
            return {value["metadata"]["name"]: value for value in values if value["kind"] == kind}

    def replicas(self, kind: str) -> dict[str, int]:
        """Return the number of pods of each object of a kind."""
        return {name: value["spec"]["replicas"] for name, value in self.all_of(kind).items()}

    def settle(self) -> None:
        """Let all pods become ready."""
        with self.lock:
            for managed in self.objects.values():
                if managed.value["kind"] in {"Deployment", "StatefulSet"}:
                    number = managed.value["spec"]["replicas"]
                    managed.fields |= {("status", name): number for name in ("replicas", "availableReplicas")}

    def scale(self, kind: str, name: str, replicas: int) -> None:
        """Set the number of pods as an autoscaler does."""
        with self.lock:
            for managed in self.objects.values():
                value = managed.value
                if (value["kind"], value["metadata"]["name"]) == (kind, name):
                    value["spec"]["replicas"] = replicas
                    managed.update(AUTOSCALER, value)

    def forget(self, kind: str, name: str) -> None:
        """Delete an object and leave what it made, as `kubectl delete --cascade=orphan` does."""
        with self.lock:
            found = [k for k, m in self.objects.items() if (m.value["kind"], k[3]) == (kind, name)]
            for key in found:
                del self.objects[key]

    # ---- requests

    def discovery(self, path: str) -> Manifest | None:
        """Return the document of a path that says what is served."""
        groups: dict[str, list[str]] = {}
        for api in self.kinds:
            if "/" in api:
                groups.setdefault(api.split("/")[0], []).append(api)
        match path.strip("/").split("/"):
            case ["version"]:
                return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                listed = [
                    {"name": group, "versions": [_version(api) for api in apis], "preferredVersion": _version(apis[0])}
                    for group, apis in groups.items()
                ]
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
            case ["openapi", "v3"]:
                paths = {_root(api): {"serverRelativeURL": f"/openapi/v3/{_root(api)}"} for api in self.kinds}
                return {"paths": paths}
            case ["openapi", "v3", "api" | "apis", *rest] if "/".join(rest) in self.kinds:
                return self._openapi("/".join(rest))
            case ["api" | "apis", *rest] if "/".join(rest) in self.kinds:
                resources = [
                    {
                        "name": plural, "singularName": "", "namespaced": True, "kind": kind,
                        "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
                    }
                    for kind, plural in self.kinds["/".join(rest)].items()
                ]  # fmt: skip
                return {
                    "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "/".join(rest),
                    "resources": resources,
                }  # fmt: skip
        return None

    def _openapi(self, api: str) -> Manifest:
        """Return as much of the schema as says that the server checks fields itself, so that Helm does not."""
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
            for kind, plural in self.kinds[api].items()
        }
        return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "1"}, "paths": paths}

    def answer(self, method: str, target: str, content_type: str, body: bytes) -> tuple[int, Manifest]:
        """Return status and document of a request."""
        split = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        found = self.discovery(split.path)
        if found is not None:
            return 200, found
        match = re.fullmatch(r"/(?:api|apis)/(.+)/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?", split.path)
        if match is None or match[3] not in self.kinds.get(match[1], {}).values():
            return _failure(404, "NotFound", f"{target} is not served")
        api, namespace, plural, name = match.groups()
        given: Manifest = {}
        if method != "DELETE" and body:
            given = read_secret(body) if is_protobuf(body) else yaml.safe_load(body)
        with self.lock:
            if name is None and method == "GET":
                return 200, self._list(api, plural, namespace, query.get("labelSelector", ""))
            key = (api, plural, namespace, name or given["metadata"]["name"])
            managed = self.objects.get(key)
            if managed is None and not (method == "POST" or content_type.startswith("application/apply")):
                return _failure(404, "NotFound", f'{plural} "{key[3]}" not found')
            if method == "GET" and managed is not None:
                value = managed.value
                value["metadata"]["managedFields"] = managed.managed_fields(("spec", "replicas"))
                return 200, value
            if method == "DELETE":
                del self.objects[key]
                return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
            if method == "POST" and managed is not None:
                return _failure(409, "AlreadyExists", f'{plural} "{key[3]}" already exists')
            try:
                self._write(key, given, content_type, query)
            except ConflictError as error:
                return _failure(409, "Conflict", f"Apply failed with 1 conflict: {error}")
            except InvalidError as error:
                return _failure(422, "Invalid", f'{plural} "{key[3]}" is invalid: {error}')
            return 200, self.objects[key].value

    def _list(self, api: str, plural: str, namespace: str, selector: str) -> Manifest:
        wanted = [part.split("=", 1) for part in selector.split(",") if part]
        items = [
            managed.value for key, managed in self.objects.items() if key[:3] == (api, plural, namespace)
        ]
        chosen = [
            item
            for item in items
            if all(item["metadata"].get("labels", {}).get(name) == value for name, value in wanted)
        ]
        kind = next(kind for kind, name in self.kinds[api].items() if name == plural)
        return {"kind": f"{kind}List", "apiVersion": api, "metadata": {}, "items": chosen}

    def _write(
        self, key: tuple[str, str, str, str], given: Manifest, content_type: str, query: dict[str, str]
    ) -> None:
        before = self.objects.get(key)
        after = copy.deepcopy(before) if before else Managed()
        manager = query.get("fieldManager", "helm")
        given["metadata"].setdefault("namespace", key[2])
        if content_type.startswith("application/apply"):
            after.apply(manager, given, force=query.get("force") == "true")
        elif "patch" not in content_type:
            after.update(manager, given)
        else:
            raise InvalidError(f"the stand-in knows no {content_type}")
        value = after.value
        if value["kind"] in {"Deployment", "StatefulSet"}:
            after.fields.setdefault(("spec", "replicas"), 1)
        _check(value, before.value if before else None)
        self.objects[key] = after


def _root(api: str) -> str:
    return f"apis/{api}" if "/" in api else f"api/{api}"


def _version(api: str) -> dict[str, str]:
    return {"groupVersion": api, "version": api.split("/")[1]}


def _failure(code: int, reason: str, message: str) -> tuple[int, Manifest]:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    return code, {**status, "reason": reason, "message": message}


def _check(value: Manifest, before: Manifest | None) -> None:
    """Refuse what an API server refuses of names, labels and changes. Raises `InvalidError`."""
    name = value["metadata"]["name"]
    longest = _LABEL_LENGTH if value["kind"] == "Service" else 253
    if len(name) > longest or not _NAME.fullmatch(name):
        raise InvalidError(f"metadata.name: {name!r}")
    spec = value.get("spec", {})
    template = spec.get("template", {}).get("metadata", {})
    labels = {**value["metadata"].get("labels", {}), **template.get("labels", {})}
    if value["kind"] == "StatefulSet":
        # Its controller labels pods with the name and a hash; otherwise it makes none, and says so nowhere.
        labels["controller-revision-hash"] = f"{name}-0123456789"
    for label, text in labels.items():
        if len(text) > _LABEL_LENGTH or not _LABEL.fullmatch(text):
            raise InvalidError(f"metadata.labels.{label}: {text!r}")
    selector = spec.get("selector", {}).get("matchLabels", {}) if "template" in spec else {}
    if not selector.items() <= template.get("labels", {}).items():
        raise InvalidError("spec.selector: selects none of its own pods")
    if before is None:
        return
    if value["kind"] == "Deployment" and spec["selector"] != before["spec"]["selector"]:
        raise InvalidError("spec.selector: field is immutable")
    mutable = _MUTABLE.get(value["kind"])
    if mutable is not None:
        names = set(spec) | set(before["spec"])
        changed = {field for field in names - mutable if spec.get(field) != before["spec"].get(field)}
        if changed:
            raise InvalidError(f"spec: updates to {sorted(changed)} are forbidden")


@contextmanager
def stand_in_kubernetes(*custom: dict[str, dict[str, str]]) -> Iterator[StandInKubernetes]:
    """Serve an empty cluster on the loopback interface, with some custom kinds."""
    kinds = {api: kinds for served in (BUILT_IN, *custom) for api, kinds in served.items()}
    cluster = StandInKubernetes(kinds)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body leave in one packet; as two, each answer would wait 40 ms for the client's acknowledgement.
        wbufsize = -1

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content_type = self.headers.get("Content-Type") or ""
            code, document = cluster.answer(self.command, self.path, content_type, body)
            payload = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    cluster.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
