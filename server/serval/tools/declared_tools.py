"""The tools of one request, looked up by the names that the model writes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from serval.tools.parameters import ParameterSchema

_NAME_PREFIX: Final = "functions."


class DeclaredTools:
    """OpenAI's tools, nested (`{"type", "function": {...}}`) or flat (`{"type", "name", ...}`)."""

    __slots__ = ("_functions",)

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        self._functions: dict[str, Mapping[str, Any]] = {}
        for tool in tools:
            function = tool.get("function", tool)
            if isinstance(function, Mapping) and isinstance(function.get("name"), str):
                self._functions[function["name"]] = function

    def __bool__(self) -> bool:
        return bool(self._functions)

    def called_name(self, name: str) -> str:
        """Return the name that a call of `name` is reported with.

        It is `name` as the model wrote it, but without the prefix `functions.` if only that makes it a
        declared tool.
        """
        bare = name.removeprefix(_NAME_PREFIX)
        return bare if name not in self._functions and bare in self._functions else name

    def parameters_of(self, name: str) -> ParameterSchema:
        """Return the parameters of a tool; those of an undeclared one allow anything."""
        return ParameterSchema(self._functions.get(name, {}).get("parameters"))
