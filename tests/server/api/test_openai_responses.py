"""The Responses API: events and whole answers, also through the openai client."""

import json
from itertools import pairwise
from typing import Any

import pytest
from openai.types.responses import Response

from serval_testkit.gateway import MODEL, RunningGateway, running_gateway
from serval_testkit.grammar_walk import accepts, compiled_text

PATH = "/v1/responses"
TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
    {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "close"}]},
    {"type": "custom", "name": "apply_patch"},
    {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}},
    {"type": "local_shell"},
    {"type": "web_search"},
]
TEXT = "I look it up.\n"


def call(name: str, **arguments: str) -> str:
    pairs = [
        f"<longcat_arg_key>{key}</longcat_arg_key>\n<longcat_arg_value>{value}</longcat_arg_value>\n"
        for key, value in arguments.items()
    ]
    return f"<longcat_tool_call>{name}\n{''.join(pairs)}</longcat_tool_call>\n"


WEATHER = call("get_weather", city='"Ål" \\ b', days="3")
PATCH = call("apply_patch", input='*** Begin Patch\n+"ä\\n"\n')
ALL = (
    TEXT
    + WEATHER
    + call("agents.close")
    + PATCH
    + call("tool_search", query="x")
    + call("local_shell", command='["ls"]')
    + call("unknown.tool", a="1")
)


def pieces(text: str, size: int = 5) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)] or [""]


def events_of(text: str) -> list[dict[str, Any]]:
    """Return the data of the events, whose names are their types, and whose numbers are consecutive."""
    events = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def streamed(gateway: RunningGateway, **fields: Any) -> list[dict[str, Any]]:
    response = await gateway.post({"model": MODEL, "input": "Hi", "stream": True, **fields}, path=PATH)
    assert response.status == 200, await response.text()
    assert "openai-model" not in response.headers
    return events_of(await response.text())


async def whole(gateway: RunningGateway, **fields: Any) -> dict[str, Any]:
    response = await gateway.post({"model": MODEL, "input": "Hi", **fields}, path=PATH)
    assert response.status == 200, await response.text()
    body: dict[str, Any] = await response.json()
    return body


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    """Return the response without what differs between any two."""
    text = json.dumps({**response, "created_at": 0})
    own = [response["id"].removeprefix("resp_"), *(item.get("call_id", "-") for item in response["output"])]
    for number, each in enumerate(own):
        text = text.replace(each, f"<{number}>")
    decoded: dict[str, Any] = json.loads(text)
    return decoded


async def test_responses_stream_has_every_event_in_order(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(TEXT + WEATHER), cached_tokens=2)
    events = await streamed(gateway, tools=TOOLS)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert [kind for place, kind in enumerate(kinds) if place == 0 or kinds[place - 1] != kind] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    assert (
        "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == TEXT
    )
    done = next(event for event in events if event["type"] == "response.function_call_arguments.done")
    assert done["name"] == "get_weather"
    assert json.loads(done["arguments"]) == {"city": '"Ål" \\ b', "days": 3}
    final = events[-1]["response"]
    usage = final["usage"]
    prompt_tokens = len(gateway.engine.requests[0]["input_ids"])
    assert usage["input_tokens"] == prompt_tokens
    assert usage["input_tokens_details"] == {"cached_tokens": 2, "cache_write_tokens": 0}
    assert usage["total_tokens"] == prompt_tokens + usage["output_tokens"]


async def test_responses_items_are_the_same_in_all_events_and_at_the_end(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(ALL))
    events = await streamed(gateway, tools=TOOLS)
    added = [event for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    output = events[-1]["response"]["output"]
    assert [event["output_index"] for event in added] == list(range(len(output)))
    assert [event["item"]["id"] for event in added] == [item["id"] for item in output]
    assert [event["item"] for event in done] == output
    assert {event["item"]["status"] for event in added} == {"in_progress"}
    assert len({item["id"] for item in output}) == len(output)
    for event in events:
        if "item_id" in event:
            assert event["item_id"] == output[event["output_index"]]["id"]
    for kind, field, whole_field in (
        ("function_call_arguments", "arguments", "arguments"),
        ("custom_tool_call_input", "input", "input"),
    ):
        for item in output:
            deltas = [
                event["delta"]
                for event in events
                if event["type"] == f"response.{kind}.delta" and event["item_id"] == item["id"]
            ]
            if deltas:
                assert "".join(deltas) == item[field] == item[whole_field]


async def test_responses_calls_have_the_form_of_their_tools(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(ALL))
    message, weather, close, patch, search, shell, unknown = (await whole(gateway, tools=TOOLS))["output"]
    assert message["content"] == [{"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}]
    assert (weather["type"], weather["name"]) == ("function_call", "get_weather")
    assert "namespace" not in weather
    assert (close["name"], close["namespace"], close["arguments"]) == ("close", "agents", "{}")
    assert (patch["type"], patch["input"]) == ("custom_tool_call", '*** Begin Patch\n+"ä\\n"\n')
    assert (search["type"], search["execution"], search["arguments"]) == (
        "tool_search_call",
        "client",
        {"query": "x"},
    )
    assert shell["type"] == "local_shell_call"
    assert shell["action"] == {"type": "exec", "command": ["ls"], "env": {}}
    assert (unknown["name"], unknown["arguments"]) == ("unknown.tool", '{"a": 1}')


@pytest.mark.parametrize(
    "text", [ALL, TEXT, "", "  ", "<longcat_think>a b</longcat_think>c", "\n\n" + WEATHER]
)
async def test_responses_whole_answer_is_the_end_of_the_stream(gateway: RunningGateway, text: str) -> None:
    fields = {"tools": TOOLS, "metadata": {"a": "b"}, "instructions": "Be brief.", "temperature": 0}
    gateway.engine.will_say(*pieces(text))
    answer = await whole(gateway, **fields)
    gateway.engine.will_say(*pieces(text))
    events = await streamed(gateway, **fields)
    assert without_ids(events[-1]["response"]) == without_ids(answer)
    assert answer["status"] == "completed"
    assert (answer["metadata"], answer["instructions"], answer["temperature"]) == ({"a": "b"}, "Be brief.", 0)
    assert [tool["type"] for tool in answer["tools"]] == [tool["type"] for tool in TOOLS[:-1]]


async def test_responses_answer_without_text_and_calls_is_an_empty_message(gateway: RunningGateway) -> None:
    gateway.engine.will_say("")
    (item,) = (await whole(gateway))["output"]
    assert item["content"][0]["text"] == ""


async def test_responses_answer_of_reasoning_alone_has_an_empty_message(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces("<longcat_think>Hm.</longcat_think>"))
    thought, message = (await whole(gateway))["output"]
    assert (thought["type"], message["content"][0]["text"]) == ("reasoning", "")
    gateway.engine.will_say(*pieces("<longcat_think>Hm."), finish={"type": "length"})
    (thought,) = (await whole(gateway))["output"]
    assert (thought["type"], thought["status"]) == ("reasoning", "incomplete")


async def test_responses_blank_text_before_a_call_is_no_message(gateway: RunningGateway) -> None:
    gateway.engine.will_say(" \n", WEATHER)
    assert [item["type"] for item in (await whole(gateway, tools=TOOLS))["output"]] == ["function_call"]


async def test_responses_reasoning_is_an_item_of_its_own(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces("<longcat_think>\nHm.\n</longcat_think>\nHello"))
    events = await streamed(gateway)
    thought, message = events[-1]["response"]["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Hello"
    assert "".join(e["delta"] for e in events if e["type"] == "response.reasoning_text.delta") == "Hm."


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("text", "kinds", "statuses"),
    [
        ("Once upon", ["message"], ["incomplete"]),
        (TEXT + WEATHER[:60], ["message", "function_call"], ["completed", "incomplete"]),
        (WEATHER + WEATHER[:60], ["function_call", "function_call"], ["completed", "incomplete"]),
        (PATCH[:80], ["custom_tool_call"], ["incomplete"]),
    ],
)
async def test_responses_cut_by_length_is_incomplete(
    gateway: RunningGateway, stream: bool, text: str, kinds: list[str], statuses: list[str]
) -> None:
    gateway.engine.will_say(*pieces(text), finish={"type": "length"})
    if stream:
        events = await streamed(gateway, tools=TOOLS)
        assert events[-1]["type"] == "response.incomplete"
        answer = events[-1]["response"]
    else:
        answer = await whole(gateway, tools=TOOLS)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["type"] for item in answer["output"]] == kinds
    assert [item["status"] for item in answer["output"]] == statuses


@pytest.mark.parametrize("fault", ["cut", "garbage", "no_finish", "error_event"])
async def test_responses_broken_stream_ends_with_response_failed(gateway: RunningGateway, fault: Any) -> None:
    gateway.engine.will_say("partial", fault=fault)
    events = await streamed(gateway)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    failed = events[-1]
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    # Codex tries again.
    assert failed["response"]["error"]["code"] == "server_error"
    assert "stand-in failure" not in json.dumps(failed)
    assert not any(event["type"] == "response.completed" for event in events)


async def test_responses_failed_before_the_first_token_has_the_first_events(gateway: RunningGateway) -> None:
    gateway.engine.will_say(fault="error_event", delay_s=0.2)
    response = await gateway.post({"model": MODEL, "input": "Hi", "stream": True}, path=PATH)
    if response.status == 200:  # the stream had begun with a ping
        kinds = [event["type"] for event in events_of(await response.text())]
        assert kinds == ["response.created", "response.in_progress", "response.failed"]
    else:
        assert response.status == 500


async def test_responses_limit_is_cut_to_the_room_left(gateway: RunningGateway) -> None:
    answer = await whole(gateway, max_output_tokens=10**6)
    sent = gateway.engine.requests[0]
    assert sent["sampling_params"]["max_new_tokens"] == 8192 - len(sent["input_ids"])
    assert answer["max_output_tokens"] == 10**6


async def test_responses_prompt_that_does_not_fit_is_refused_in_its_own_words(
    gateway: RunningGateway,
) -> None:
    response = await gateway.post({"model": MODEL, "input": "word " * 20_000}, path=PATH)
    error = (await response.json())["error"]
    assert (response.status, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    assert "messages" not in error["message"]


async def test_responses_fields_reach_the_engine_request(gateway: RunningGateway) -> None:
    await whole(gateway, temperature=0.5, top_p=0.5, top_k=3, seed=7, instructions="Be brief.")
    (sent,) = gateway.engine.requests
    params = sent["sampling_params"]
    assert (params["temperature"], params["top_p"], params["top_k"], params["sampling_seed"]) == (
        0.5,
        0.5,
        3,
        7,
    )
    assert sent["rid"].startswith("resp_")


async def test_responses_text_format_constrains_the_answer(gateway: RunningGateway) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {"type": "json_schema", "name": "Resp[Foo]", "schema": schema, "strict": True}
    gateway.engine.will_say('{"ok": true}')
    answer = await whole(gateway, text={"format": form, "verbosity": "odd"})
    assert "structural_tag" in gateway.engine.requests[0]["sampling_params"]
    assert answer["text"]["format"]["name"] == "Resp[Foo]"
    bad = {**form, "schema": {"type": "object", "not": {}}}
    response = await gateway.post({"model": MODEL, "input": "Hi", "text": {"format": bad}}, path=PATH)
    assert (await response.json())["error"]["param"] == "text.format"


async def test_responses_unknown_values_without_effect_are_accepted(gateway: RunningGateway) -> None:
    await whole(
        gateway,
        service_tier="of_the_future",
        truncation="auto",
        reasoning={"effort": "xhigh", "summary": "odd", "context": 1},
        include=["reasoning.encrypted_content", "of_the_future"],
        prompt_cache_retention="9h",
        client_metadata={"a": {"b": 1}},
        store=True,
        background=False,
        conversation=None,
    )


def long_session(steps: int) -> list[dict[str, Any]]:
    """A question, and so many calls with results of about 300 tokens each."""
    items: list[dict[str, Any]] = [{"role": "user", "content": "Find the fault."}]
    for number in range(steps):
        call = {"call_id": f"c{number}", "name": "read", "arguments": "{}"}
        output = "".join(f"line {number} {line}\n" for line in range(75))
        items += [{"type": "function_call", **call}]
        items += [{"type": "function_call_output", "call_id": f"c{number}", "output": output}]
    return items


async def test_responses_truncation_drops_whole_calls_and_keeps_its_prefix(gateway: RunningGateway) -> None:
    options = {"instructions": "Be brief.", "truncation": "auto"}
    for steps in range(40, 50):
        answer = await whole(gateway, input=long_session(steps), **options)
        assert answer["truncation"] == "auto"
        assert answer["usage"]["input_tokens"] < gateway.engine.max_req_input_len
    prompts = [request["input_ids"] for request in gateway.engine.requests]
    changes = sum(new[: len(old)] != old for old, new in pairwise(prompts))
    assert changes <= 3
    await whole(gateway, input=long_session(0), **options)
    # The beginning is the instructions and the question, without the token with which an answer begins.
    beginning = gateway.engine.requests[-1]["input_ids"][:-1]
    assert all(prompt[: len(beginning)] == beginning for prompt in prompts)


@pytest.mark.parametrize("truncation", ["disabled", None])
async def test_responses_without_truncation_refuse_what_does_not_fit(
    gateway: RunningGateway, truncation: str | None
) -> None:
    body = {"model": MODEL, "input": long_session(40), "truncation": truncation}
    response = await gateway.post(body, path=PATH)
    assert response.status == 400
    assert (await response.json())["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": 5}]}, "input[0].output"),
        ({"tools": [{"type": "function", "name": 5}]}, "tools[0].name"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"structured_outputs": {"json": {}}}, "structured_outputs"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"model": "other"}, "model"),
    ],
)
async def test_responses_invalid_field_is_named(gateway: RunningGateway, fields: Any, param: str) -> None:
    response = await gateway.post({"model": MODEL, "input": "Hi", **fields}, path=PATH)
    error = (await response.json())["error"]
    assert (response.status, error["param"]) == (404 if param == "model" else 400, param)
    assert gateway.engine.requests == []


async def test_responses_unknown_field_is_refused_in_strict_mode_only() -> None:
    async with running_gateway(strict_fields=True) as gateway:
        response = await gateway.post({"model": MODEL, "input": "Hi", "odd": 1}, path=PATH)
        assert (response.status, (await response.json())["error"]["param"]) == (400, "odd")
        await whole(gateway, background=False, conversation=None, prompt=None)


async def test_responses_store_is_said_to_be_off_without_a_database(gateway: RunningGateway) -> None:
    assert (await whole(gateway, store=True))["store"] is False
    response = await gateway.get(f"{PATH}/resp_{'0' * 32}")
    assert (response.status, (await response.json())["error"]["code"]) == (404, "response_not_found")


async def test_responses_log_probabilities_stand_beside_the_text(gateway: RunningGateway) -> None:
    scores = [[[-0.5, 100, "Hel"]], [[-0.25, 101, "lo"]], [[-0.125, 2, ""]]]
    gateway.engine.will_say("Hel", "lo", "", logprobs=scores)
    answer = await whole(gateway, top_logprobs=1, include=["message.output_text.logprobs"])
    (part,) = answer["output"][0]["content"]
    assert [entry["logprob"] for entry in part["logprobs"]] == [-0.5, -0.25]
    gateway.engine.will_say("Hel", "lo", "", logprobs=scores)
    events = await streamed(gateway, top_logprobs=1)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [entry["logprob"] for event in deltas for entry in event["logprobs"]] == [-0.5, -0.25]
    assert events[-1]["response"]["output"][0]["content"] == [part]


async def test_responses_log_probabilities_of_blank_text_are_kept(gateway: RunningGateway) -> None:
    scores = [[[-0.5, 100, " "]], [[-0.25, 101, "\n"]], [[-0.125, 2, ""]]]
    gateway.engine.will_say(" ", "\n", "", logprobs=scores)
    (part,) = (await whole(gateway, top_logprobs=1))["output"][0]["content"]
    assert part["text"] == " \n"
    assert [entry["logprob"] for entry in part["logprobs"]] == [-0.5, -0.25]
    gateway.engine.will_say(" ", "\n", "", logprobs=scores)
    events = await streamed(gateway, top_logprobs=1)
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [entry["logprob"] for entry in delta["logprobs"]] == [-0.5, -0.25]
    assert events[-1]["response"]["output"][0]["content"] == [part]


async def test_responses_openai_client_reads_whole_answers_and_streams(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(TEXT + WEATHER))
    answer = await gateway.openai.responses.create(model=MODEL, input="Hi", tools=TOOLS[:1])
    assert answer.output_text == TEXT
    assert answer.output[1].type == "function_call"
    # The client does not validate answers by itself.
    gateway.engine.will_say(*pieces(TEXT + WEATHER + PATCH))
    Response.model_validate(await whole(gateway, tools=[TOOLS[0], TOOLS[2]]), strict=True)
    gateway.engine.will_say(*pieces(TEXT + WEATHER))
    async with gateway.openai.responses.stream(model=MODEL, input="Hi", tools=TOOLS[:1]) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_response()
    assert {"response.created", "response.output_text.delta", "response.completed"} <= kinds
    assert final.output_text == TEXT
    assert final.output[1].type == "function_call"
    assert json.loads(final.output[1].arguments)["days"] == 3
    assert final.usage is not None
    assert final.usage.output_tokens_details.reasoning_tokens == 0


async def test_responses_custom_tool_is_held_to_its_grammar(gateway: RunningGateway) -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "go " /[a-z]+/'}
    tools = [{"type": "custom", "name": "move", "format": grammar}]
    answer = await whole(gateway, tools=tools)
    tag = gateway.engine.requests[0]["sampling_params"]["structural_tag"]
    constrained = compiled_text(tag)
    assert accepts(constrained, "I move." + call("move", input="go north"))
    assert not accepts(constrained, "I move." + call("move", input="go NORTH"))
    assert answer["tools"] == tools
    recursive = {**grammar, "definition": 'start: "a" start | "b"'}
    answer = await whole(gateway, tools=[{**tools[0], "format": recursive}])
    assert "structural_tag" not in gateway.engine.requests[1]["sampling_params"]
    assert answer["tools"][0]["format"] == {"type": "text"}
