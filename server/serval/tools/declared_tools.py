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

    def declared_name(self, name: str) -> str | None:
        """Return the name of the tool that `name` calls, with or without the prefix `functions.`."""
        for candidate in (name, name.removeprefix(_NAME_PREFIX)):
            if candidate in self._functions:
                return candidate
        return None

    def parameters_of(self, declared_name: str) -> ParameterSchema:
        """Return the parameters of a declared tool."""
        return ParameterSchema(self._functions[declared_name].get("parameters"))
