"""Schemas of the items and tools of a Responses request, for the OpenAPI document.

They are decoded by their types, so the request's own schema only refers to them.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from serval.wire.components import reference_to, struct_components
from serval.wire.responses.items import ITEM_TYPES
from serval.wire.responses.tools import TOOL_TYPES


def responses_schemas() -> dict[str, Any]:
    """Return the schemas by name."""
    kinds = {*ITEM_TYPES.values(), *TOOL_TYPES.values()}
    return {
        **struct_components(sorted(kinds, key=lambda kind: kind.__name__)),
        "InputItem": _by_type(ITEM_TYPES, "An item; a message needs no type. Other types are left out."),
        "ToolDeclaration": _by_type(TOOL_TYPES, "A tool. Those that only OpenAI's servers run are left out."),
    }


def _by_type(types: "Mapping[str, type[msgspec.Struct]]", description: str) -> dict[str, Any]:
    return {
        "description": description,
        "anyOf": [
            {"allOf": [{"type": "object", "properties": {"type": {"const": name}}}, reference_to(kind)]}
            for name, kind in types.items()
        ],
    }
