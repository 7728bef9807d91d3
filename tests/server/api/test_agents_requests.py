"""Requests of agents that other servers refuse, and answers that an agent's loop needs."""

import json
from typing import Any

import pytest

from serval_testkit.gateway import MODEL, RunningGateway
from serval_testkit.grammar_walk import accepts, compiled
from serval_testkit.longcat_text import call, pair

HI: list[Any] = [{"role": "user", "content": "Hi"}]
GO_ON: list[Any] = [{"role": "user", "content": "Go on."}]
PARAMETERS = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
MCP_NAMES = ["server.tool", "mcp__a-long-server-name__" + "t" * 100, "srv:ns/tool", "a.b.c-d_e"]


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": PARAMETERS, **fields}}


async def refusal(gateway: RunningGateway, **fields: Any) -> dict[str, Any]:
    response = await gateway.post({"model": MODEL, "messages": HI, **fields})
    assert response.status == 400
    error: dict[str, Any] = (await response.json())["error"]
    return error


@pytest.mark.parametrize(
    "empty",
    [
        {},
        {"content": None},
        {"content": ""},
        {"content": None, "reasoning_content": "Hm."},
        {"tool_calls": []},
    ],
    ids=str,
)
async def test_empty_answer_may_come_back(gateway: RunningGateway, empty: dict[str, Any]) -> None:
    for message in (empty, {"content": ""}):
        messages = [*HI, {"role": "assistant", **message}, *GO_ON]
        assert (await gateway.post({"model": MODEL, "messages": messages})).status == 200
    given, plain = gateway.engine.requests
    assert given["input_ids"] == plain["input_ids"]


@pytest.mark.parametrize("name", MCP_NAMES, ids=[name[:24] for name in MCP_NAMES])
@pytest.mark.parametrize("strict", [False, True])
async def test_names_of_mcp_tools_are_declared_called_and_enforced(
    gateway: RunningGateway, name: str, strict: bool
) -> None:
    text = call(name, pair("q", "cats"))
    gateway.engine.will_say(text)
    choice: dict[str, Any] = {"type": "function", "function": {"name": name}}
    body = {"model": MODEL, "messages": HI, "tools": [tool(name, strict=strict)], "tool_choice": choice}
    answer = await (await gateway.post(body)).json()
    made = answer["choices"][0]["message"]["tool_calls"][0]
    assert made["function"] == {"name": name, "arguments": '{"q": "cats"}'}
    grammar = compiled(json.loads(gateway.engine.requests[0]["sampling_params"]["structural_tag"]))
    assert accepts(grammar, text)
    assert not accepts(grammar, text.replace(name, "other"))
    history = [*HI, {"role": "assistant", "tool_calls": [made]}]
    history.append({"role": "tool", "tool_call_id": made["id"], "content": "7 cats"})
    assert (await gateway.post({"model": MODEL, "messages": history, "tools": body["tools"]})).status == 200


async def test_names_of_mcp_tools_are_declared_and_called_on_all_apis(gateway: RunningGateway) -> None:
    name = MCP_NAMES[0]
    gateway.engine.will_say(call(name, pair("q", "cats")))
    declared = {"type": "function", "name": name, "parameters": PARAMETERS}
    body: dict[str, Any] = {"model": MODEL, "input": "Hi", "tools": [declared]}
    answer = await (await gateway.post(body, path="/v1/responses")).json()
    assert [item["name"] for item in answer["output"]] == [name]
    gateway.engine.will_say(call(name, pair("q", "cats")))
    body = {"model": MODEL, "messages": HI, "max_tokens": 9}
    body["tools"] = [{"name": name, "input_schema": PARAMETERS}]
    answer = await (await gateway.post(body, path="/v1/messages")).json()
    assert [block["name"] for block in answer["content"]] == [name]


@pytest.mark.parametrize("name", ["Resp[Foo]", "List[Dict[str, Größe]]", "a name with spaces", "x" * 200])
async def test_schemas_may_have_any_name(gateway: RunningGateway, name: str) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": name, "schema": PARAMETERS}}
    body = {"model": MODEL, "messages": HI, "response_format": response_format}
    assert (await gateway.post(body)).status == 200
    assert name not in gateway.engine.requests[0]["sampling_params"]["structural_tag"]


async def test_tool_choice_any_means_required(gateway: RunningGateway) -> None:
    for choice in ("any", "required"):
        body = {"model": MODEL, "messages": HI, "tools": [tool("f")], "tool_choice": choice}
        assert (await gateway.post(body)).status == 200
    asked, required = (request["sampling_params"] for request in gateway.engine.requests)
    assert asked == required
    assert "structural_tag" in asked


async def test_tools_of_other_apis_are_refused_with_the_form_to_send(gateway: RunningGateway) -> None:
    flat = await refusal(gateway, tools=[{"type": "function", "name": "f", "parameters": PARAMETERS}])
    assert flat["param"] == "tools[0].function"
    assert "{'type': 'function', 'function': {...}}" in flat["message"]
    custom = await refusal(gateway, tools=[{"type": "custom", "custom": {"name": "f"}}])
    assert custom["param"] == "tools[0].type"
    assert "/v1/responses serves custom tools" in custom["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_call_of_a_tool_that_is_not_declared_is_counted_as_a_call(
    gateway: RunningGateway, stream: bool
) -> None:
    """The agent answers that there is no such tool, and the model goes on; a dropped call ended the loop."""
    gateway.engine.will_say("Let me look. ", call("hallucinated", pair("q", "cats")))
    body = {"model": MODEL, "messages": HI, "tools": [tool("f")], "stream": stream}
    answered = await (await gateway.post(body)).text()
    assert '"hallucinated"' in answered
    assert '"finish_reason":"tool_calls"' in answered
    metrics = await (await gateway.get("/metrics")).text()
    assert 'serval_tool_calls_total{outcome="complete"} 1.0' in metrics
    assert "hallucinated" not in metrics
