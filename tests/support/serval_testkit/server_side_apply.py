"""Server-side apply of the Kubernetes API: fields, who owns them, conflicts.

As in https://kubernetes.io/docs/reference/using-api/server-side-apply/, with one simplification: a list is
merged by its items' `mountPath` or `name` if all have one, and is one field otherwise. The real API reads
that in its schema.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Steps to a field: keys, and for an item of a merged list the pair of its key's name and value.
Step = str | tuple[str, str]
Field = tuple[Step, ...]
_MERGE_KEYS = ("mountPath", "name")


class ConflictError(Exception):
    """Another manager owns a field, with another value."""


class InvalidError(Exception):
    """The API refuses the object."""


@dataclass
class Managed:
    """An object, as its fields, and the fields that each manager owns."""

    fields: dict[Field, Any] = field(default_factory=dict)
    owned: dict[str, set[Field]] = field(default_factory=dict)
    applied: set[str] = field(default_factory=set)

    @property
    def value(self) -> dict[str, Any]:
        """The object."""
        return _nested(self.fields)

    def managed_fields(self, path: Field) -> list[dict[str, Any]]:
        """The managers, as `metadata.managedFields` has them, with one field alone."""
        entries = []
        for manager, owned in self.owned.items():
            tree: dict[str, Any] = {}
            for step in reversed(path if path in owned else ()):
                tree = {f"f:{step}": tree}
            operation = "Apply" if manager in self.applied else "Update"
            entries.append({"manager": manager, "operation": operation, "fieldsV1": tree})
        return entries

    def apply(self, manager: str, wanted: dict[str, Any], *, force: bool) -> None:
        """Make the object what `manager` wants, as far as the fields are its own. Raises `ConflictError`."""
        new = dict(_fields_of(wanted))
        for path, value in new.items():
            others = [name for name, owned in self.owned.items() if name != manager and path in owned]
            if others and self.fields.get(path) != value:
                if not force:
                    raise ConflictError(f'conflict with "{others[0]}": .{_written(path)}')
                for name in others:
                    self.owned[name].discard(path)
        gone = self.owned.get(manager, set()) - set(new)
        for path in gone:
            if not any(path in owned for name, owned in self.owned.items() if name != manager):
                self.fields.pop(path, None)
        self.fields.update(new)
        self.owned[manager] = set(new)
        self.applied.add(manager)

    def update(self, manager: str, value: dict[str, Any]) -> None:
        """Replace the object. `manager` owns what it changed, and nobody else does."""
        new = dict(_fields_of(value))
        changed = {path for path, value in new.items() if self.fields.get(path) != value}
        for name, owned in self.owned.items():
            if name != manager:
                owned.difference_update(changed)
        self.owned.setdefault(manager, set()).update(changed)
        self.fields = new


def _fields_of(value: Any, path: Field = ()) -> Iterator[tuple[Field, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _fields_of(inner, (*path, name))
    elif isinstance(value, list) and (key := _merge_key(value)):
        names = [str(item[key]) for item in value]
        if len(set(names)) != len(names):
            raise InvalidError(f".{_written(path)}: duplicate entries for key [{key}]: {names}")
        for name, item in zip(names, value, strict=True):
            yield from _fields_of(item, (*path, (key, name)))
    else:
        yield path, value


def _merge_key(items: list[Any]) -> str | None:
    for key in _MERGE_KEYS:
        if items and all(isinstance(item, dict) and key in item for item in items):
            return key
    return None


def _nested(fields: dict[Field, Any]) -> dict[str, Any]:
    root: dict[Step, Any] = {}
    for path, value in fields.items():
        node = root
        for step in path[:-1]:
            node = node.setdefault(step, {})
        node[path[-1]] = value
    found: dict[str, Any] = _with_lists(root)
    return found


def _with_lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    inner = {step: _with_lists(value) for step, value in node.items()}
    if inner and all(isinstance(step, tuple) for step in inner):
        return list(inner.values())
    return inner


def _written(path: Field) -> str:
    return ".".join(step if isinstance(step, str) else f"[{step[0]}={step[1]}]" for step in path)
