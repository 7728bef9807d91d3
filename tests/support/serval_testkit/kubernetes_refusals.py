"""Objects that the Kubernetes API refuses: names, labels, changes of what is immutable."""

import re
from typing import Any

from serval_testkit.server_side_apply import InvalidError

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
_NAME_LENGTH = 253


def check_object(value: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Check an object, and how it differs from what it was `before`. Raises `InvalidError`."""
    name = value["metadata"]["name"]
    longest = _LABEL_LENGTH if value["kind"] == "Service" else _NAME_LENGTH
    if len(name) > longest or not _NAME.fullmatch(name):
        raise InvalidError(f"metadata.name: {name!r}")
    spec = value.get("spec", {})
    template = spec.get("template", {}).get("metadata", {})
    labels = {**value["metadata"].get("labels", {}), **template.get("labels", {})}
    if value["kind"] == "StatefulSet":
        # Its controller labels pods with the name and a hash, and makes none if that is too long.
        labels["controller-revision-hash"] = f"{name}-0123456789"
    for label, text in labels.items():
        if len(text) > _LABEL_LENGTH or not _LABEL.fullmatch(text):
            raise InvalidError(f"metadata.labels.{label}: {text!r}")
    selector = spec.get("selector", {}).get("matchLabels", {}) if "template" in spec else {}
    if not selector.items() <= template.get("labels", {}).items():
        raise InvalidError("spec.selector: selects none of its own pods")
    if before is not None:
        _check_change(value["kind"], spec, before.get("spec", {}))


def _check_change(kind: str, spec: dict[str, Any], before: dict[str, Any]) -> None:
    if kind == "Deployment" and spec["selector"] != before["selector"]:
        raise InvalidError("spec.selector: field is immutable")
    if kind in _MUTABLE:
        fixed = (set(spec) | set(before)) - _MUTABLE[kind]
        changed = sorted(name for name in fixed if spec.get(name) != before.get(name))
        if changed:
            raise InvalidError(f"spec: updates to {changed} are forbidden")
