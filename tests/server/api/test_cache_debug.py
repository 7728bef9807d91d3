"""Where a prompt leaves the caller's most similar recent one, on request."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from serval.settings import Settings
from serval.store.factory import open_store
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway
from serval_testkit.longcat_text import call, pair

ASK = {"x-serval-cache-debug": "1"}
PROPERTIES = {"path": {"type": "string"}, "text": {"type": "string"}}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "edit", "parameters": {"type": "object", "properties": PROPERTIES}},
}
SYSTEM: dict[str, Any] = {"role": "system", "content": "You edit files. Today is Monday."}
USER: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "Edit a.py."}]}
EDIT = call("edit", pair("path", "a.py"), pair("text", "x"))
BODY: dict[str, Any] = {"model": MODEL, "tools": [TOOL], "messages": [SYSTEM, USER]}


async def left(gateway: RunningGateway, *messages: Any, key: str = API_KEY, **fields: Any) -> str | None:
    """Ask, and return what the header says."""
    body = {**BODY, **fields, "messages": [*messages]}
    response = await gateway.post(body, headers={**ASK, "authorization": f"Bearer {key}"})
    assert response.status == 200, await response.text()
    return response.headers.get("x-serval-cache-left")


def called(arguments: str) -> list[Any]:
    function = {"name": "edit", "arguments": arguments}
    message = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}
    return [message, {"role": "tool", "tool_call_id": "c", "content": "done"}]


async def test_cache_debug_names_where_a_prompt_leaves_the_one_before(gateway: RunningGateway) -> None:
    assert await left(gateway, SYSTEM, USER) == "none"
    assert await left(gateway, SYSTEM, USER) == "end"
    tuesday = {"role": "system", "content": "You edit files. Today is Tuesday."}
    assert await left(gateway, tuesday, USER) == "messages[0].content 25"
    other = {"role": "user", "content": [{"type": "text", "text": "Edit b.py."}]}
    assert await left(gateway, SYSTEM, other) == "messages[1].content[0].text 5"
    assert await left(gateway, SYSTEM, USER, tools=[]) == "messages[0].content 0"
    # A string in place of a list of one text gives the same prompt.
    assert await left(gateway, SYSTEM, {"role": "user", "content": "Edit a.py."}) == "end"


@pytest.mark.parametrize("stream", [False, True])
async def test_cache_debug_knows_the_answer(gateway: RunningGateway, stream: bool) -> None:
    gateway.engine.will_say(EDIT)
    await left(gateway, SYSTEM, USER, stream=stream)
    changed = called('{"replace_all": false, "path": "a.py", "text": "x"}')
    place = "messages[2].tool_calls[0].function.arguments.replace_all 0"
    assert await left(gateway, SYSTEM, USER, *changed) == place
    as_answered = called('{"path": "a.py", "text": "x"}')
    assert await left(gateway, SYSTEM, USER, *as_answered) == "end"


async def test_cache_debug_is_silent_unless_asked(gateway: RunningGateway) -> None:
    for headers in ({}, {"x-serval-cache-debug": "0"}, {"x-serval-cache-debug": "false"}):
        response = await gateway.post(BODY, headers=headers)
        assert "x-serval-cache-left" not in response.headers
    # Nothing was held for a later comparison.
    assert await left(gateway, SYSTEM, USER) == "none"


async def test_cache_debug_compares_prompts_of_one_key_alone(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.db")
    store = open_store(Settings(key_database=database))
    one, other = (store.create(name=name, scopes=["inference"])[1] for name in ("one", "other"))
    async with running_gateway(key_database=database, share_prefix_cache=True) as gateway:
        assert await left(gateway, SYSTEM, USER, key=one) == "none"
        assert await left(gateway, SYSTEM, USER, key=other) == "none"
        assert await left(gateway, SYSTEM, USER, key=one) == "end"


async def test_cache_debug_without_room_compares_nothing() -> None:
    async with running_gateway(cache_debug_bytes=0) as gateway:
        for _ in range(2):
            assert await left(gateway, SYSTEM, USER) == "none"


@pytest.mark.parametrize(
    "key", ["ü\r\nx-evil: 1", "x" * 5000, '"', "\x7f"], ids=["lines", "long", "quote", "DEL"]
)
async def test_cache_debug_writes_any_key_into_a_header(gateway: RunningGateway, key: str) -> None:
    tool = deepcopy(TOOL)
    assert await left(gateway, USER, tools=[tool]) == "none"
    tool["function"]["parameters"] = {key: 5}
    said = await left(gateway, USER, tools=[tool])
    assert said is not None
    assert said.startswith("tools[0].function.parameters")
    assert said.isascii()
    assert said.isprintable()
    assert len(said) < 1100


async def test_cache_debug_of_deep_json_names_the_character_of_the_prompt(gateway: RunningGateway) -> None:
    await left(gateway, USER, *called("{}"))
    deep = "[" * 400 + "]" * 400
    said = await left(gateway, USER, *called(f'{{"path": {deep}}}'))
    assert said is not None
    assert said.startswith("messages[1].tool_calls[0].function.arguments.path ")


async def test_cache_debug_names_the_place_in_a_body_of_the_responses_api(gateway: RunningGateway) -> None:
    output = {"type": "function_call_output", "call_id": "c", "output": "a.py"}
    asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List."}]}
    used = {"type": "function_call", "call_id": "c", "name": "ls", "arguments": "{}"}
    for result, expected in (("a.py", "none"), ("a.py", "end"), ("a.txt", "input[2].output 2")):
        items = [asked, used, {**output, "output": result}]
        body = {"model": MODEL, "store": False, "input": items}
        response = await gateway.post(body, path="/v1/responses", headers=ASK)
        assert response.headers["x-serval-cache-left"] == expected
