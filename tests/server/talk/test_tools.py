"""Tools of `serval chat`, from JSON and from Python."""

import json
from pathlib import Path

import pytest

from serval.talk.tools import ToolsFileError, find_tool, load_tools

MODULE = '''
"""Tools for a test."""
from datetime import date  # a class: no tool
from os.path import join  # another module's function: no tool

def forecast(city: str, days: int = 1) -> dict:
    """Forecast of a city.

    Further lines.
    """
    return {"city": city, "days": days}

def now() -> str:
    return "14:05"

def fail(reason: str) -> None:
    raise LookupError(reason)

def _helper() -> None: ...
'''


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "weather.py"
    path.write_text(MODULE)
    return path


def call(module: Path, name: str, arguments: str) -> str:
    tool = find_tool(load_tools(module), name)
    assert tool is not None
    assert tool.call is not None
    return tool.call(arguments)


def test_load_tools_makes_a_tool_of_each_public_function(module: Path) -> None:
    tools = load_tools(module)
    assert [tool.name for tool in tools] == ["fail", "forecast", "now"]
    function = tools[1].declaration["function"]
    assert function["description"] == "Forecast of a city.\n\nFurther lines."
    assert function["parameters"]["properties"]["city"]["type"] == "string"
    assert function["parameters"]["required"] == ["city"]


def test_tool_call_runs_the_function_and_returns_text_or_json(module: Path) -> None:
    assert json.loads(call(module, "forecast", '{"city": "Kraków"}')) == {"city": "Kraków", "days": 1}
    assert call(module, "now", "{}") == "14:05"


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("fail", '{"reason": "no forecast"}', "LookupError: no forecast"),
        ("forecast", '{"city": "Rome", "days": "many"}', "days"),
        ("forecast", "{}", "city: Missing required argument"),
        ("forecast", "{", "Invalid JSON"),
        ("now", '{"zone": 1}', "zone: Unexpected keyword argument"),
    ],
)
def test_tool_call_gives_the_model_what_went_wrong(
    module: Path, name: str, arguments: str, problem: str
) -> None:
    assert problem in json.loads(call(module, name, arguments))["error"]


def test_load_tools_takes_declarations_of_the_api(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    declaration = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    path.write_text(json.dumps([declaration]))
    (tool,) = load_tools(path)
    assert (tool.declaration, tool.call) == (declaration, None)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tools.json", None, "cannot read tools"),
        ("tools.json", "{", "cannot read tools"),
        ("tools.json", '{"type": "function"}', "is no list"),
        ("tools.json", '[{"type": "function"}]', "is no list"),
        ("tools.json", "[]", "holds no tools"),
        ("tools.py", None, "cannot import"),
        ("tools.py", "import nothing_of_this_name", "ModuleNotFoundError"),
        ("tools.py", "x = 1", "holds no tools"),
        ("tools.py", "class A: pass\ndef f(a: A): ...", "f cannot be a tool"),
    ],
)
def test_load_tools_names_what_is_wrong(tmp_path: Path, name: str, content: str | None, problem: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ToolsFileError, match=problem):
        load_tools(path)
