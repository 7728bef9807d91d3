"""`tool_choice` of type `allowed_tools`: the prompt declares all tools, and some can be called."""

import json
from typing import Any

import pytest

from serval_testkit.gateway import MODEL, RunningGateway
from serval_testkit.grammar_walk import accepts, compiled_text
from serval_testkit.longcat_text import call, pair

HI: list[Any] = [{"role": "user", "content": "Say: hello there"}]


def tool(name: str, **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


SEND, WEATHER, DROP = tool("send_note"), tool("get_weather", strict=True), tool("drop_table")
TOOLS = [SEND, WEATHER, DROP]
ALLOWED, STRICT, OTHER = (
    call(name, pair("text", "hi")) for name in ("send_note", "get_weather", "drop_table")
)


def choice(*names: str, mode: str = "auto") -> dict[str, Any]:
    named = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}


async def sent(gateway: RunningGateway, **fields: Any) -> dict[str, Any]:
    """Return what the engine was sent."""
    response = await gateway.post({"model": MODEL, "messages": HI, "tools": TOOLS, **fields})
    assert response.status == 200, await response.text()
    request: dict[str, Any] = gateway.engine.requests[-1]
    return request


@pytest.mark.parametrize("fields", [{}, {"parallel_tool_calls": False}, {"stream": True}], ids=str)
async def test_allowed_tools_auto_admits_text_and_calls_of_allowed_tools(
    gateway: RunningGateway, fields: dict[str, Any]
) -> None:
    request = await sent(gateway, tool_choice=choice("send_note"), **fields)
    grammar = compiled_text(request["sampling_params"]["structural_tag"])
    for text in ("It is noon.", ALLOWED, f"Wait. {ALLOWED}"):
        assert accepts(grammar, text), text
    assert accepts(grammar, ALLOWED + ALLOWED) is ("parallel_tool_calls" not in fields)
    for text in (OTHER, STRICT, f"Wait. {OTHER}", ALLOWED + OTHER):
        assert not accepts(grammar, text), text


async def test_allowed_tools_required_admits_only_calls_of_allowed_tools(gateway: RunningGateway) -> None:
    request = await sent(gateway, tool_choice=choice("send_note", "get_weather", mode="required"))
    grammar = compiled_text(request["sampling_params"]["structural_tag"])
    for text in (ALLOWED, STRICT, ALLOWED + STRICT):
        assert accepts(grammar, text), text
    for text in ("It is noon.", OTHER, ALLOWED + OTHER):
        assert not accepts(grammar, text), text


async def test_allowed_tools_with_json_admit_either(gateway: RunningGateway) -> None:
    request = await sent(gateway, tool_choice=choice("send_note"), response_format={"type": "json_object"})
    grammar = compiled_text(request["sampling_params"]["structural_tag"])
    assert accepts(grammar, "{}")
    assert accepts(grammar, ALLOWED)
    assert not accepts(grammar, OTHER)


async def test_allowed_tools_leave_the_prompt_unchanged(gateway: RunningGateway) -> None:
    """The prompt is that of all tools, so the prefix cache serves every choice; `/tokenize` agrees."""
    plain = await sent(gateway)
    allowed = await sent(gateway, tool_choice=choice("get_weather"))
    assert allowed["input_ids"] == plain["input_ids"]
    body = {"model": MODEL, "messages": HI, "tools": TOOLS, "tool_choice": choice("get_weather")}
    tokens = json.loads(await (await gateway.post(body, path="/tokenize")).text())["tokens"]
    assert tokens == plain["input_ids"]


async def test_allowed_tools_leave_out_schemas_of_other_tools(gateway: RunningGateway) -> None:
    """A schema that cannot be enforced is refused only where the tool may be called."""
    bad = tool("bad", strict=True)
    bad["function"]["parameters"]["properties"]["text"] = {"type": "string", "format": "hostname", "not": {}}
    await sent(gateway, tools=[SEND, bad], tool_choice=choice("send_note"))
    body = {"model": MODEL, "messages": HI, "tools": [SEND, bad], "tool_choice": choice("bad")}
    assert (await gateway.post(body)).status == 400


ALLOWED_TOOLS = "tool_choice.allowed_tools"
WRONG = {
    "no allowed_tools": ({"type": "allowed_tools"}, ALLOWED_TOOLS),
    "Responses API's form": ({"type": "allowed_tools", "mode": "auto", "tools": []}, ALLOWED_TOOLS),
    "unknown mode": (choice("send_note", mode="none"), f"{ALLOWED_TOOLS}.mode"),
    "no mode": ({"type": "allowed_tools", "allowed_tools": {"tools": []}}, f"{ALLOWED_TOOLS}.mode"),
    "no tools": (choice(), f"{ALLOWED_TOOLS}.tools"),
    "undeclared": (choice("send_note", "nope"), f"{ALLOWED_TOOLS}.tools[1].function.name"),
    "another type": (
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "mcp"}]}},
        f"{ALLOWED_TOOLS}.tools[0]",
    ),
    "a type of its own": ({"type": "custom", "custom": {"name": "send_note"}}, "tool_choice.type"),
    "function without a name": ({"type": "function"}, "tool_choice.function"),
}


@pytest.mark.parametrize(("wrong", "param"), WRONG.values(), ids=WRONG)
async def test_allowed_tools_of_a_wrong_form_are_refused(
    gateway: RunningGateway, wrong: dict[str, Any], param: str
) -> None:
    for path in ("/v1/chat/completions", "/tokenize"):
        body = {"model": MODEL, "messages": HI, "tools": TOOLS, "tool_choice": wrong}
        response = await gateway.post(body, path=path)
        assert response.status == 400
        assert (await response.json())["error"]["param"] == param


async def test_allowed_tools_without_tools_are_refused(gateway: RunningGateway) -> None:
    response = await gateway.post({"model": MODEL, "messages": HI, "tool_choice": choice("send_note")})
    assert (await response.json())["error"]["param"] == "tool_choice"
