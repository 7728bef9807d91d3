"""Schemas of msgspec and pydantic types as components of an OpenAPI document."""

from collections.abc import Iterable
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_REFERENCE = "#/components/schemas/{name}"


def reference_to(kind: type) -> dict[str, str]:
    """Return the reference to the component of a type."""
    return {"$ref": _REFERENCE.format(name=kind.__name__)}


def struct_schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a type that msgspec knows; it refers to structs as components."""
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    return schema


def struct_components(kinds: Iterable[type[msgspec.Struct]]) -> dict[str, Any]:
    """Return the schemas of structs and of all that they refer to, by name."""
    return msgspec.json.schema_components(kinds, ref_template=_REFERENCE)[1]


def model_components(kinds: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """Return the schemas of answers that are pydantic models and of all that they refer to, by name."""
    template = _REFERENCE.format(name="{model}")
    _, schemas = models_json_schema([(kind, "serialization") for kind in kinds], ref_template=template)
    components: dict[str, Any] = schemas["$defs"]
    return components
