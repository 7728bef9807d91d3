"""The Messages API through the real anthropic client, and event by event."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio

from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

PATH = "/v1/messages"
HI: list[Any] = [{"role": "user", "content": "Hi"}]
WEATHER: list[Any] = [
    {
        "name": "get_weather",
        "description": "Weather",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    }
]
CALL = (
    "<longcat_tool_call>get_weather\n"
    "<longcat_arg_key>city</longcat_arg_key>\n<longcat_arg_value>Paris</longcat_arg_value>\n"
    "<longcat_arg_key>days</longcat_arg_key>\n<longcat_arg_value>3</longcat_arg_value>\n"
    "</longcat_tool_call>\n"
)
NOW = "<longcat_tool_call>now\n</longcat_tool_call>\n"


def pieces(text: str, size: int = 5) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def asking(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 64, "messages": HI, **more}


@pytest_asyncio.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=API_KEY, max_retries=0) as made:
        yield made


async def events_of(gateway: RunningGateway, **more: Any) -> list[Any]:
    """Return the data of a streamed answer's events, each of which must be named for its type."""
    response = await gateway.post(asking(stream=True, **more), path=PATH)
    assert response.status == 200, await response.text()
    events = []
    for block in (await response.text()).split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


async def test_messages_answers_whole(gateway: RunningGateway, client: anthropic.AsyncAnthropic) -> None:
    gateway.engine.will_say("Hello", " there", cached_tokens=2)
    answer = await client.messages.create(model=MODEL, max_tokens=64, messages=HI)
    assert answer.id.startswith("msg_")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", MODEL)
    assert [block.model_dump(exclude_none=True) for block in answer.content] == [
        {"type": "text", "text": "Hello there"}
    ]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    prompt_tokens = len(gateway.engine.requests[0]["input_ids"])
    assert answer.usage.input_tokens == prompt_tokens - 2
    assert answer.usage.cache_read_input_tokens == 2
    assert answer.usage.cache_creation_input_tokens == 0
    assert answer.usage.output_tokens == 2


async def test_messages_answer_has_the_keys_of_the_specification(gateway: RunningGateway) -> None:
    response = await gateway.post(asking(), path=PATH)
    body = await response.json()
    assert set(body) == {
        "id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage",
    }  # fmt: skip
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert gateway.engine.requests[0]["rid"] == body["id"]


async def test_messages_client_gets_the_same_whole_and_streamed(
    gateway: RunningGateway, client: anthropic.AsyncAnthropic
) -> None:
    said = pieces(f"I look.\n{CALL}{NOW}")
    options: Any = {"model": MODEL, "max_tokens": 500, "messages": HI, "tools": WEATHER}
    gateway.engine.will_say(*said, cached_tokens=1)
    whole = await client.messages.create(**options)
    gateway.engine.will_say(*said, cached_tokens=1)
    async with client.messages.stream(**options) as stream:
        streamed = await stream.get_final_message()
    assert whole.stop_reason == streamed.stop_reason == "tool_use"
    assert whole.usage.input_tokens == streamed.usage.input_tokens
    assert whole.usage.output_tokens == streamed.usage.output_tokens == len(said)
    assert streamed.usage.cache_read_input_tokens == 1
    for answer in (whole, streamed):
        text, weather, now = answer.content
        assert isinstance(text, anthropic.types.TextBlock)
        assert text.text == "I look.\n"
        assert isinstance(weather, anthropic.types.ToolUseBlock)
        assert weather.id.startswith("toolu_")
        assert (weather.name, weather.input) == ("get_weather", {"city": "Paris", "days": 3})
        assert isinstance(now, anthropic.types.ToolUseBlock)
        assert (now.name, now.input) == ("now", {})
        assert now.id != weather.id


async def test_messages_events_have_one_open_block_at_a_time(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(f"I look.\n{CALL}{NOW}"), cached_tokens=3)
    events = await events_of(gateway, tools=WEATHER)
    assert [event["type"] for event in events[:2]] == ["message_start", "ping"]
    start = events[0]["message"]
    assert start["content"] == []
    assert start["stop_reason"] is None
    assert start["usage"]["cache_read_input_tokens"] == 3
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    opened: int | None = None
    seen, given = [], []
    for event in events[2:-2]:
        if event["type"] == "content_block_start":
            assert opened is None
            opened = event["index"]
            seen.append(event["content_block"])
            given.append("")
        else:
            assert event["index"] == opened == len(seen) - 1
        if event["type"] == "content_block_stop":
            opened = None
        elif event["type"] == "content_block_delta":
            given[-1] += event["delta"].get("text", event["delta"].get("partial_json"))
    assert opened is None
    assert [block["type"] for block in seen] == ["text", "tool_use", "tool_use"]
    assert [block.get("input") for block in seen] == [None, {}, {}]
    assert given[0] == "I look.\n"
    assert [json.loads(text) for text in given[1:]] == [{"city": "Paris", "days": 3}, {}]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"]["input_tokens"] + 3 == len(gateway.engine.requests[0]["input_ids"])


async def test_messages_text_with_nothing_but_space_before_a_call_is_no_block(
    gateway: RunningGateway,
) -> None:
    gateway.engine.will_say(*pieces(f"\n\n{NOW}"))
    events = await events_of(gateway, tools=WEATHER)
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["tool_use"]


async def test_messages_sends_reasoning_as_thinking(gateway: RunningGateway) -> None:
    text = "<longcat_think>\nThey greet me.\n</longcat_think>\nHello"
    gateway.engine.will_say(*pieces(text))
    whole = await (await gateway.post(asking(), path=PATH)).json()
    assert whole["content"] == [
        {"type": "thinking", "thinking": "They greet me.", "signature": ""},
        {"type": "text", "text": "Hello"},
    ]
    gateway.engine.will_say(*pieces(text))
    events = await events_of(gateway)
    thoughts = [
        event["delta"].get("thinking", "") for event in events if "index" in event and "delta" in event
    ]
    assert "".join(thoughts) == "They greet me."


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_call_that_is_cut_is_closed_and_cannot_be_run(
    gateway: RunningGateway, stream: bool
) -> None:
    cut = NOW + CALL[: CALL.index("<longcat_arg_key>days")]
    said = pieces(cut, 40)
    limit = len(said)
    gateway.engine.will_say(*said, finish={"type": "length", "length": limit})
    if not stream:
        body = await (await gateway.post(asking(tools=WEATHER, max_tokens=limit), path=PATH)).json()
        assert body["stop_reason"] == "max_tokens"
        assert [block["name"] for block in body["content"]] == ["now"]
        return
    events = await events_of(gateway, tools=WEATHER, max_tokens=limit)
    assert [event["type"] for event in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"
    parts = [
        event["delta"]["partial_json"] for event in events if event.get("index") == 1 and "delta" in event
    ]
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        json.loads("".join(parts))


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_names_the_stop_sequence(gateway: RunningGateway, stream: bool) -> None:
    gateway.engine.will_say("Hello ", finish={"type": "stop", "matched": "END"})
    asked = {"stop_sequences": ["END", "x"], "stream": stream}
    text = await (await gateway.post(asking(**asked), path=PATH)).text()
    assert '"stop_reason":"stop_sequence","stop_sequence":"END"' in text
    assert gateway.engine.requests[0]["sampling_params"]["stop"] == ["END", "x"]


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_limit_beyond_the_room_left_is_cut_to_it(
    gateway: RunningGateway, stream: bool
) -> None:
    gateway.engine.will_say("a", finish={"type": "length", "length": 1})
    text = await (await gateway.post(asking(max_tokens=128_000, stream=stream), path=PATH)).text()
    sent = gateway.engine.requests[0]
    room = gateway.engine.context_length - len(sent["input_ids"])
    assert sent["sampling_params"]["max_new_tokens"] == room
    # The window ended the answer, not the client's limit.
    assert '"stop_reason":"model_context_window_exceeded"' in text


async def test_messages_continues_the_beginning_of_the_answer(gateway: RunningGateway) -> None:
    beginning = {"role": "assistant", "content": "The answer is"}
    await gateway.post(asking(messages=[*HI, beginning]), path=PATH)
    await gateway.post(asking(), path=PATH)
    continued, plain = (request["input_ids"] for request in gateway.engine.requests)
    assert continued[: len(plain)] == plain
    assert len(continued) > len(plain)


async def test_messages_model_may_call_a_deferred_tool(gateway: RunningGateway) -> None:
    deferred = [WEATHER[0] | {"defer_loading": True}]
    gateway.engine.will_say(*pieces(CALL))
    body = await (await gateway.post(asking(tools=deferred), path=PATH)).json()
    # Only the declaration says that days are a number.
    assert body["content"][0]["input"] == {"city": "Paris", "days": 3}
    await gateway.post(asking(), path=PATH)
    assert gateway.engine.requests[0]["input_ids"] == gateway.engine.requests[1]["input_ids"]
    await gateway.post(asking(tools=deferred, tool_choice={"type": "any"}), path=PATH)
    assert "get_weather" in gateway.engine.requests[2]["sampling_params"]["structural_tag"]


async def test_messages_error_has_the_form_of_the_api(
    gateway: RunningGateway, client: anthropic.AsyncAnthropic
) -> None:
    response = await gateway.post(
        asking(messages=[{"role": "user", "content": [{"type": "text"}]}]), path=PATH
    )
    assert response.status == 400
    assert await response.json() == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "Missing required parameter: 'messages[0].content[0].text'.",
        },
        "request_id": response.headers["request-id"],
    }
    with pytest.raises(anthropic.NotFoundError) as caught:
        await client.messages.create(model="other", max_tokens=1, messages=HI)
    assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    assert caught.value.request_id is not None


async def test_messages_full_context_has_the_wording_that_starts_compaction(gateway: RunningGateway) -> None:
    long = "word " * (gateway.engine.max_req_input_len + 10)
    response = await gateway.post(asking(messages=[{"role": "user", "content": long}]), path=PATH)
    assert response.status == 400
    error = (await response.json())["error"]
    assert error["type"] == "invalid_request_error"
    # Counting stops behind the limit, so the first number may be too small.
    assert error["message"] == "prompt is too long: 8000 tokens > 7999 maximum"


async def test_messages_full_engine_is_a_529(
    gateway: RunningGateway, client: anthropic.AsyncAnthropic
) -> None:
    gateway.engine.will_say(fault="http_error", status=503)
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(model=MODEL, max_tokens=1, messages=HI)
    assert caught.value.status_code == 529
    assert caught.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]
    assert int(caught.value.response.headers["retry-after"]) > 0


async def test_messages_error_in_a_stream_is_an_event(gateway: RunningGateway) -> None:
    gateway.engine.will_say("Hello", fault="cut")
    events = await events_of(gateway)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    assert events[-1]["request_id"].startswith("req_")
    assert not [event for event in events if event["type"] == "message_stop"]


async def test_messages_begin_waits_for_the_engine_behind_pings() -> None:
    async with running_gateway(first_byte_s=0.01, ping_interval_s=0.01) as gateway:
        gateway.engine.will_say("a", "b", delay_s=0.05)
        gateway.engine.will_say(fault="stall")
        response = await gateway.post(asking(stream=True), path=PATH)
        text = await response.text()
        assert text.index("event: message_start") >= 0
        assert "\n\n: ping\n\n" in text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": API_KEY}, 200),
        ({"authorization": f"Bearer {API_KEY}"}, 200),
        ({"authorization": f"bearer {API_KEY}", "x-api-key": API_KEY}, 200),
        ({"authorization": f"Bearer {API_KEY}", "x-api-key": ""}, 200),
        ({"authorization": f"Bearer {API_KEY}", "x-api-key": "other"}, 401),
        ({"authorization": "Bearer other", "x-api-key": API_KEY}, 401),
        ({"x-api-key": "other"}, 401),
        ({"authorization": API_KEY, "x-api-key": API_KEY}, 401),
        ({}, 401),
    ],
)
async def test_messages_key_is_a_bearer_or_x_api_key(
    gateway: RunningGateway, headers: dict[str, str], status: int
) -> None:
    async with gateway.http.post(gateway.url + PATH, json=asking(), headers=headers) as response:
        assert response.status == status
        body = await response.json()
    if status == 401:
        assert body["error"]["type"] == "authentication_error"
        assert API_KEY not in json.dumps(body)


async def test_count_tokens_counts_the_prompt_without_the_engine(
    gateway: RunningGateway, client: anthropic.AsyncAnthropic
) -> None:
    asked: Any = {"model": MODEL, "messages": HI, "system": "Be brief.", "tools": WEATHER}
    count = await client.messages.count_tokens(**asked)
    assert not gateway.engine.requests
    await client.messages.create(max_tokens=8, **asked)
    assert count.input_tokens == len(gateway.engine.requests[0]["input_ids"])
    response = await gateway.post({"model": "other", "messages": HI}, path=f"{PATH}/count_tokens")
    assert response.status == 404
    assert (await response.json())["type"] == "error"


async def test_count_tokens_takes_a_request_but_no_tokens_of_the_limits() -> None:
    async with running_gateway(tokens_per_minute=5, requests_per_minute=2) as gateway:
        for status in (200, 200, 429):
            response = await gateway.post({"model": MODEL, "messages": HI}, path=f"{PATH}/count_tokens")
            assert response.status == status
        assert (await response.json())["error"]["type"] == "rate_limit_error"


async def test_messages_other_method_is_a_405_in_the_form_of_the_api(gateway: RunningGateway) -> None:
    response = await gateway.get(PATH)
    assert response.status == 405
    assert (await response.json())["type"] == "error"


async def test_messages_error_of_a_schema_names_its_place_in_the_request(gateway: RunningGateway) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    strict = [{"name": "f", "input_schema": schema, "strict": True}]
    response = await gateway.post(asking(tools=strict), path=PATH)
    assert response.status == 400
    place = "tools/f/input_schema/properties/a/uniqueItems"
    assert place in (await response.json())["error"]["message"]
    # Without another form to ask for, the rest of the schema is enforced.
    form = {"format": {"type": "json_schema", "schema": schema}}
    assert (await gateway.post(asking(output_config=form), path=PATH)).status == 200
    assert "structural_tag" in gateway.engine.requests[0]["sampling_params"]
    impossible = {
        "format": {
            "type": "json_schema",
            "schema": {"type": "object", "properties": {"a": False}, "required": ["a"]},
        }
    }
    response = await gateway.post(asking(output_config=impossible), path=PATH)
    assert response.status == 400
    assert "output_config.format/schema" in (await response.json())["error"]["message"]


def read_twenty_files() -> list[dict[str, Any]]:
    """A conversation of 20 calls with results of about 100 tokens each."""
    messages: list[dict[str, Any]] = [*HI]
    for number in range(20):
        name = {"type": "tool_use", "id": f"toolu_{number}", "name": "read", "input": {"file": number}}
        text = "".join(f"line {number} {line}\n" for line in range(25))
        result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": text}
        messages += [{"role": "assistant", "content": [name]}, {"role": "user", "content": [result]}]
    return messages


def clearing(tokens: int) -> dict[str, Any]:
    edit = {"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens", "value": tokens}}
    return {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}, edit]}


async def test_messages_context_editing_clears_old_results_and_says_so(gateway: RunningGateway) -> None:
    messages = read_twenty_files()
    whole = await (await gateway.post(asking(messages=messages), path=PATH)).json()
    assert "context_management" not in whole
    trigger = whole["usage"]["input_tokens"] * 3 // 4
    asked = asking(messages=messages, context_management=clearing(trigger))
    edited = await (await gateway.post(asked, path=PATH)).json()
    assert edited["usage"]["input_tokens"] <= trigger
    (applied,) = edited["context_management"]["applied_edits"]
    assert applied["type"] == "clear_tool_uses_20250919"
    assert 5 <= applied["cleared_tool_uses"] <= 17
    saved = whole["usage"]["input_tokens"] - edited["usage"]["input_tokens"]
    assert applied["cleared_input_tokens"] == saved
    events = await events_of(gateway, **{name: asked[name] for name in ("messages", "context_management")})
    assert events[-2]["type"] == "message_delta"
    assert events[-2]["context_management"] == edited["context_management"]
    counted = await gateway.post(
        {name: asked[name] for name in ("model", "messages", "context_management")},
        path=f"{PATH}/count_tokens",
    )
    assert await counted.json() == {
        "input_tokens": edited["usage"]["input_tokens"],
        "context_management": {"original_input_tokens": whole["usage"]["input_tokens"]},
    }
    sent = [request["input_ids"] for request in gateway.engine.requests]
    assert sent[1] == sent[2] != sent[0]


async def test_messages_context_editing_below_its_trigger_changes_nothing(gateway: RunningGateway) -> None:
    for more in ({}, {"context_management": clearing(7_000)}, {"context_management": {"edits": []}}):
        body = await (await gateway.post(asking(messages=read_twenty_files(), **more), path=PATH)).json()
        assert body.get("context_management") == ({"applied_edits": []} if more else None)
    assert len({tuple(request["input_ids"]) for request in gateway.engine.requests}) == 1


async def test_messages_bad_context_edit_is_a_400_with_its_place(gateway: RunningGateway) -> None:
    edits = clearing(1)["edits"] + [{"type": "clear_tool_uses_20250919"}]
    response = await gateway.post(asking(context_management={"edits": edits}), path=PATH)
    assert response.status == 400
    assert "context_management.edits[2]" in (await response.json())["error"]["message"]
