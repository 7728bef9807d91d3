"""`functions` and `function_call`: the deprecated form of tools, answered in the same form."""

import json
from typing import Any

import pytest

from serval_testkit.gateway import MODEL, RunningGateway

HI: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "Weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = (
    "<longcat_tool_call>get_weather\n"
    "<longcat_arg_key>city</longcat_arg_key>\n<longcat_arg_value>Paris</longcat_arg_value>\n"
    "</longcat_tool_call>\n"
)


def legacy(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": HI, "functions": [FUNCTION], **fields}


def pieces(text: str) -> list[str]:
    return [text[start : start + 7] for start in range(0, len(text), 7)]


async def test_functions_give_the_engine_request_of_tools(gateway: RunningGateway) -> None:
    tool = {"type": "function", "function": FUNCTION}
    for choice, tool_choice in (
        ("auto", "auto"),
        ("none", "none"),
        (None, None),
        ({"name": "get_weather"}, {"type": "function", "function": {"name": "get_weather"}}),
    ):
        gateway.engine.requests.clear()
        modern = {"model": MODEL, "messages": HI, "tools": [tool], "tool_choice": tool_choice}
        for body in (legacy(function_call=choice), {**modern, "parallel_tool_calls": False}):
            assert (await gateway.post(body)).status == 200
        old, new = ({**request, "rid": ""} for request in gateway.engine.requests)
        assert old == new


async def test_whole_answer_has_a_function_call(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(CALL + CALL))
    answer = await gateway.openai.chat.completions.create(model=MODEL, messages=HI, functions=[FUNCTION])
    (choice,) = answer.choices
    assert choice.finish_reason == "function_call"
    assert choice.message.content is None
    assert choice.message.tool_calls is None
    assert choice.message.function_call is not None
    assert choice.message.function_call.name == "get_weather"
    assert json.loads(choice.message.function_call.arguments) == {"city": "Paris"}


async def test_streamed_answer_has_a_function_call(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(CALL))
    response = await gateway.post(legacy(stream=True))
    events = [event for event in (await response.text()).split("\n\n") if event.startswith("data: {")]
    choices = [json.loads(event[6:])["choices"][0] for event in events]
    assert all("tool_calls" not in choice["delta"] for choice in choices)
    calls = [c["delta"]["function_call"] for c in choices if "function_call" in c["delta"]]
    assert calls[0] == {"name": "get_weather", "arguments": ""}
    assert all(set(call) == {"arguments"} for call in calls[1:])
    assert json.loads("".join(call["arguments"] for call in calls)) == {"city": "Paris"}
    assert choices[-1]["finish_reason"] == "function_call"


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_without_a_call_has_no_function_call(gateway: RunningGateway, *, stream: bool) -> None:
    response = await gateway.post(legacy(stream=stream))
    assert response.status == 200
    text = await response.text()
    assert "function_call" not in text
    assert '"stop"' in text


async def test_function_results_are_rendered_like_tool_results(
    gateway: RunningGateway,
) -> None:
    call = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    old = [
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "get_weather", "content": "rain"},
    ]
    new = [
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
    ]
    tool = {"type": "function", "function": FUNCTION}
    assert (await gateway.post(legacy(messages=HI + old))).status == 200
    assert (await gateway.post({"model": MODEL, "messages": HI + new, "tools": [tool]})).status == 200
    first, second = gateway.engine.requests
    assert first["input_ids"] == second["input_ids"]


async def test_legacy_messages_need_no_functions(gateway: RunningGateway) -> None:
    call = {"name": "f", "arguments": "{}"}
    messages = [
        *HI,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "f", "content": "x"},
    ]
    assert (await gateway.post({"model": MODEL, "messages": messages})).status == 200


@pytest.mark.parametrize(
    "arguments", ['{"city": "Paris"', "null", "  ", "{'city': 1}", '{"a": NaN}', "", {"a": 1}]
)
async def test_legacy_history_may_hold_any_arguments(gateway: RunningGateway, arguments: Any) -> None:
    call = {"name": "f", "arguments": arguments}
    messages = [
        *HI,
        {"role": "assistant", "function_call": call},
        {"role": "function", "name": "f", "content": "x"},
    ]
    assert (await gateway.post(legacy(messages=messages))).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_function_call_cut_by_stop_string_is_not_one_to_execute(
    gateway: RunningGateway, *, stream: bool
) -> None:
    gateway.engine.will_say(CALL.partition("Par")[0], finish={"type": "stop", "matched": "Par"})
    text = await (await gateway.post(legacy(stream=stream, stop="Par"))).text()
    assert '"finish_reason":"stop"' in text
    assert '"finish_reason":"function_call"' not in text
