"""A stand-in for the Kubernetes API server, enough for Helm: discovery, objects, server-side apply, refusals.

No kubelet, scheduler or controller runs. `settle` does what controllers would to the status of Deployments
and StatefulSets, `scale` what an autoscaler would. Fields are checked with the schemas of the Kubernetes API
apart from this (`kubernetes_api`).
"""

import copy
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml

from serval_testkit.kubernetes_discovery import BUILT_IN, Kinds, discovery
from serval_testkit.kubernetes_protobuf import is_protobuf, read_secret
from serval_testkit.kubernetes_refusals import check_object
from serval_testkit.server_side_apply import ConflictError, InvalidError, Managed

Manifest = dict[str, Any]
AUTOSCALER = "kube-controller-manager"
_PATH = re.compile(r"/(?:api|apis)/(.+)/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?")


class Key(NamedTuple):
    """Location of an object."""

    api: str
    namespace: str
    plural: str
    name: str


@dataclass
class StandInKubernetes:
    """The objects of one cluster."""

    kinds: Kinds
    objects: dict[Key, Managed] = field(default_factory=dict)
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
            managed = self.objects[self._key(kind, name)]
            value = managed.value
            value["spec"]["replicas"] = replicas
            managed.update(AUTOSCALER, value)

    def orphan(self, kind: str, name: str) -> None:
        """Delete an object and leave what it made, as `kubectl delete --cascade=orphan` does."""
        with self.lock:
            del self.objects[self._key(kind, name)]

    def create(self, value: Manifest) -> None:
        """Create an object that is not Helm's."""
        key = Key(
            value["apiVersion"],
            "default",
            self.kinds[value["apiVersion"]][value["kind"]],
            value["metadata"]["name"],
        )
        with self.lock:
            self._write(key, value, "application/json", {"fieldManager": "kubectl"})

    def _key(self, kind: str, name: str) -> Key:
        (key,) = [
            key for key, managed in self.objects.items() if (managed.value["kind"], key.name) == (kind, name)
        ]
        return key

    # ---- requests

    def answer(self, method: str, target: str, content_type: str, body: bytes) -> tuple[int, Manifest]:
        """Return status and document of a request."""
        split = urlsplit(target)
        document = discovery(self.kinds).get(split.path)
        if document is not None:
            return 200, document
        match = _PATH.fullmatch(split.path)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        try:
            if match is None or match[3] not in self.kinds.get(match[1], {}).values():
                raise KeyError(target)
            api, namespace, plural, name = match.groups()
            with self.lock:
                if name is None and method == "GET":
                    return 200, self._list(api, namespace, plural, query.get("labelSelector", ""))
                given = _decoded(body) if method not in {"GET", "DELETE"} else {}
                key = Key(api, namespace, plural, name or given["metadata"]["name"])
                return 200, self._one(method, key, given, content_type, query)
        except KeyError as error:
            return _failure(404, "NotFound", f"{error} not found")
        except ConflictError as error:
            return _failure(409, "Conflict", f"Apply failed with 1 conflict: {error}")
        except InvalidError as error:
            return _failure(422, "Invalid", f"{target} is invalid: {error}")

    def _one(
        self, method: str, key: Key, given: Manifest, content_type: str, query: dict[str, str]
    ) -> Manifest:
        """Answer a request for one object. Raises `KeyError`, `ConflictError`, `InvalidError`."""
        if method == "GET":
            managed = self.objects[key]
            value = managed.value
            value["metadata"]["managedFields"] = managed.managed_fields(("spec", "replicas"))
            return value
        if method == "DELETE":
            del self.objects[key]
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        self._write(key, given, content_type, query)
        return self.objects[key].value

    def _list(self, api: str, namespace: str, plural: str, selector: str) -> Manifest:
        wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
        items = [
            managed.value for key, managed in self.objects.items() if key[:3] == (api, namespace, plural)
        ]
        chosen = [item for item in items if wanted.items() <= item["metadata"].get("labels", {}).items()]
        kind = next(kind for kind, name in self.kinds[api].items() if name == plural)
        return {"kind": f"{kind}List", "apiVersion": api, "metadata": {}, "items": chosen}

    def _write(self, key: Key, given: Manifest, content_type: str, query: dict[str, str]) -> None:
        before = self.objects.get(key)
        after = copy.deepcopy(before) if before else Managed()
        given["metadata"].setdefault("namespace", key.namespace)
        manager = query.get("fieldManager", "helm")
        if content_type.startswith("application/apply"):
            after.apply(manager, given, force=query.get("force") == "true")
        elif "patch" not in content_type:
            after.update(manager, given)
        else:
            raise InvalidError(f"the stand-in knows no {content_type}")
        if after.value["kind"] in {"Deployment", "StatefulSet"}:
            after.fields.setdefault(("spec", "replicas"), 1)
        check_object(after.value, before.value if before else None)
        self.objects[key] = after


def _decoded(body: bytes) -> Manifest:
    if is_protobuf(body):
        return read_secret(body)
    found: Manifest = yaml.load(body, Loader=yaml.CSafeLoader)
    return found


def _failure(code: int, reason: str, message: str) -> tuple[int, Manifest]:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    return code, {**status, "reason": reason, "message": message}


@contextmanager
def stand_in_kubernetes(*custom: Kinds) -> Iterator[StandInKubernetes]:
    """Serve an empty cluster on the loopback interface, with some custom kinds."""
    cluster = StandInKubernetes(
        {api: kinds for served in (BUILT_IN, *custom) for api, kinds in served.items()}
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body leave in one packet; as two, each answer would wait 40 ms for an acknowledgement.
        wbufsize = -1

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content_type = self.headers.get("Content-Type") or ""
            code, document = cluster.answer(self.command, self.path, content_type, body)
            payload = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = respond

        def log_message(self, *_: object) -> None:
            """Print nothing."""

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
