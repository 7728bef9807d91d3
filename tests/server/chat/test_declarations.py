"""Declarations of single tools in the template's own form."""

from pathlib import Path
from typing import Any

import pytest

from serval.chat import load_chat
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.model_folder import write_model_folder


def tool(name: str, description: str = "Does it.", **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters}
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


TOOLS = [
    tool("WebFetch", "Fetch a page.", url={"type": "string"}),
    tool("first_of_all"),
    tool("**Note**", "", a={"type": "integer"}),
    tool("x", "ends like the template's own text </longcat_tool_declare>"),
]


@pytest.mark.parametrize("given", TOOLS, ids=lambda given: given["function"]["name"])
@pytest.mark.parametrize("model", ["demo", "small"])
def test_declaration_is_the_text_that_the_template_writes(
    tmp_path: Path, model: str, given: dict[str, Any]
) -> None:
    renderer = load_chat(DEMO_CHECKPOINT if model == "demo" else write_model_folder(tmp_path))
    declaration = renderer.declarations.text_of(given)
    assert declaration.startswith(f"### Tool name: {given['function']['name']}\n")
    assert declaration.endswith("}")
    prompt = renderer.render([{"role": "user", "content": ""}], tools=[tool("other"), given]).text
    assert f"{declaration}\n" in prompt


def test_declaration_is_json_if_the_template_declares_no_tools(tmp_path: Path) -> None:
    template = "{% for m in messages %}<longcat_user>{{ m.content }}{% endfor %}<longcat_assistant>"
    renderer = load_chat(write_model_folder(tmp_path, template=template))
    declaration = renderer.declarations.text_of({"type": "function", "function": {"name": "f"}})
    assert declaration == '{"name": "f"}'


def test_declaration_of_an_item_of_a_json_list_is_the_item(tmp_path: Path) -> None:
    template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}"
        "{% for m in messages %}<longcat_user>{{ m.content }}{% endfor %}<longcat_assistant>"
    )
    renderer = load_chat(write_model_folder(tmp_path, template=template))
    declaration = renderer.declarations.text_of(TOOLS[0])
    assert declaration.startswith('{"type": "function", "function": {"name": "WebFetch"')


def test_declarations_that_are_kept_are_bounded(tmp_path: Path) -> None:
    declarations = load_chat(write_model_folder(tmp_path)).declarations
    for number in range(300):
        assert f"Tool name: f{number}\n" in declarations.text_of(tool(f"f{number}"))
    declarations.text_of(tool("long", "x" * 20_000))
    assert declarations.size == 256
    assert "Tool name: f299\n" in declarations.text_of(tool("f299"))
