"""Tools of a conversation, read from a JSON file or made of the functions of a Python file."""

import importlib.util
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from serval.errors import ServalError


class ToolsFileError(ServalError):
    """A file of tools cannot be used."""


@dataclass(frozen=True)
class Tool:
    """A function that is declared to the model.

    `declaration` is an element of the API's `tools`. `call` takes the arguments as JSON text and returns the
    result as text; None: the user is asked for the result.
    """

    declaration: dict[str, Any]
    call: Callable[[str], str] | None = None

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.declaration["function"]["name"])


def load_tools(path: Path) -> list[Tool]:
    """Read a file of tools.

    - `.json`: a list in the form of the API's `tools`; the user answers the calls
    - `.py`: each public function that the file defines; it is run, with arguments checked by its annotations

    Raises `ToolsFileError`.
    """
    tools = _from_module(_module(path)) if path.suffix == ".py" else _from_json(path)
    if not tools:
        raise ToolsFileError(f"{path} holds no tools: give a JSON list, or a Python file with functions")
    return tools


def _from_json(path: Path) -> list[Tool]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ToolsFileError(f"cannot read tools from {str(path)!r}: {error}") from error
    if not isinstance(listed, list) or not all(_is_declaration(each) for each in listed):
        raise ToolsFileError(
            f'{path} is no list of {{"type": "function", "function": {{"name": ...}}}}, as the API takes them'
        )
    return [Tool(declaration) for declaration in listed]


def _is_declaration(value: Any) -> bool:
    function = value.get("function") if isinstance(value, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        raise ToolsFileError(f"cannot import {str(path)!r}: {type(error).__name__}: {error}") from error
    return module


def _from_module(module: ModuleType) -> list[Tool]:
    functions = [
        function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]
    return [_tool_of(function) for function in functions]


def _tool_of(function: Callable[..., Any]) -> Tool:
    """Make a tool; pydantic derives the schema of its parameters from the function's annotations."""
    try:
        # A function is a valid type to pydantic, though not to mypy.
        adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", function))
        parameters = adapter.json_schema()
    except PydanticUserError as error:
        raise ToolsFileError(f"{function.__name__} cannot be a tool: {error.message}") from error
    described = {"name": function.__name__, "description": inspect.getdoc(function) or ""}
    declaration = {"type": "function", "function": {**described, "parameters": parameters}}

    def call(arguments: str) -> str:
        return _result(adapter, arguments)

    return Tool(declaration, call)


def _result(adapter: TypeAdapter[Any], arguments: str) -> str:
    """Call the function; what goes wrong is a result too, because the model can react to nothing else."""
    try:
        # Validating the arguments of a function calls it.
        result = adapter.validate_json(arguments)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'arguments'}: {each['msg']}"
            for each in error.errors(include_url=False)
        )
        return json.dumps({"error": problems}, ensure_ascii=False)
    except Exception as error:  # noqa: BLE001  # the user's code may raise anything
        return json.dumps({"error": f"{type(error).__name__}: {error}"}, ensure_ascii=False)
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)


def find_tool(tools: Sequence[Tool], name: str) -> Tool | None:
    """Return the tool called `name`, or None."""
    return next((tool for tool in tools if tool.name == name), None)
