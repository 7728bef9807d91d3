"""Chat completions through the real openai client, whole and streamed."""

import json
import time
from typing import Any

import pytest

from serval.chat.tokenizer import load_tokenizer
from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.grammar_walk import accepts, compiled
from serval_testkit.stand_in_engine import StandInEngine

HI: list[Any] = [{"role": "user", "content": "Hi"}]
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]
CALL = (
    "<longcat_tool_call>get_weather\n"
    "<longcat_arg_key>city</longcat_arg_key>\n<longcat_arg_value>Paris</longcat_arg_value>\n"
    "<longcat_arg_key>days</longcat_arg_key>\n<longcat_arg_value>3</longcat_arg_value>\n"
    "</longcat_tool_call>\n"
)


def pieces(text: str, size: int = 5) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


async def stream_lines(gateway: RunningGateway, body: dict[str, Any]) -> list[Any]:
    """Return the events of a streamed answer, decoded, and `[DONE]` as text."""
    response = await gateway.post({"model": MODEL, "messages": HI, "stream": True, **body})
    assert response.status == 200
    events = [event for event in (await response.text()).split("\n\n") if event and not event.startswith(":")]
    assert all(event.startswith("data: ") for event in events)
    return [event[6:] if event == "data: [DONE]" else json.loads(event[6:]) for event in events]


async def test_chat_answers_whole(gateway: RunningGateway) -> None:
    gateway.engine.will_say("Hello", " there", cached_tokens=2)
    answer = await gateway.openai.chat.completions.create(model=MODEL, messages=HI)
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    choice = answer.choices[0]
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert choice.message.content == "Hello there"
    assert choice.message.tool_calls is None
    prompt_tokens = len(gateway.engine.requests[0]["input_ids"])
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == prompt_tokens
    assert answer.usage.completion_tokens == 2
    assert answer.usage.total_tokens == prompt_tokens + 2
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


async def test_chat_answer_has_the_keys_of_the_specification(gateway: RunningGateway) -> None:
    before = int(time.time())
    response = await gateway.post({"model": MODEL, "messages": HI})
    body = await response.json()
    # Exactly these: no field of the engine's own.
    assert set(body) == {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    assert isinstance(body["created"], int)
    assert before <= body["created"] <= time.time()
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert response.headers["x-request-id"].startswith("req_")
    again = await (await gateway.post({"model": MODEL, "messages": HI})).json()
    assert again["id"] != body["id"]


async def test_chat_streams(gateway: RunningGateway) -> None:
    gateway.engine.will_say("Hel", "lo", " 北京")
    chunks = await stream_lines(gateway, {})
    assert chunks.pop() == "[DONE]"
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "Hello 北京"
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert all("usage" not in c for c in chunks)


async def test_chat_streams_usage_once_after_the_choices_if_asked_for(gateway: RunningGateway) -> None:
    gateway.engine.will_say("a", "b")
    chunks = await stream_lines(gateway, {"stream_options": {"include_usage": True}})
    assert chunks.pop() == "[DONE]"
    last = chunks.pop()
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2
    assert all(c["usage"] is None for c in chunks)


@pytest.mark.parametrize("tools", [[], WEATHER], ids=["without tools", "with tools"])
async def test_chat_sends_reasoning_before_content(gateway: RunningGateway, tools: list[Any]) -> None:
    text = "<longcat_think>\nThey greet me.\n</longcat_think>\nHello there"
    gateway.engine.will_say(*pieces(text))
    whole = await (await gateway.post({"model": MODEL, "messages": HI, "tools": tools})).json()
    message = whole["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("They greet me.", "Hello there")
    gateway.engine.will_say(*pieces(text))
    chunks = await stream_lines(gateway, {"tools": tools})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[1:-2]]
    kinds = [set(delta) for delta in deltas]
    thought = kinds.count({"reasoning_content"})
    assert kinds == [{"reasoning_content"}] * thought + [{"content"}] * (len(kinds) - thought)
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "They greet me."
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello there"


@pytest.mark.parametrize(
    ("asked", "served"), [("auto", "default"), ("priority", "default"), ("flex", "flex")]
)
async def test_chat_names_the_service_tier_if_asked_for(
    gateway: RunningGateway, asked: str, served: str
) -> None:
    body = {"model": MODEL, "messages": HI, "service_tier": asked}
    assert (await (await gateway.post(body)).json())["service_tier"] == served
    chunks = await stream_lines(gateway, {"service_tier": asked})
    assert {chunk["service_tier"] for chunk in chunks[:-1]} == {served}
    assert all("service_tier" not in chunk for chunk in (await stream_lines(gateway, {}))[:-1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 7),
        ("min_p", 0.25),
        ("repetition_penalty", 1.5),
        ("presence_penalty", -1.5),
        ("frequency_penalty", 2),
        ("logit_bias", {"5": 100}),
    ],
)
async def test_chat_passes_on_sampling_fields_of_the_same_name(
    gateway: RunningGateway, field: str, value: Any
) -> None:
    await gateway.post({"model": MODEL, "messages": HI, field: value})
    assert gateway.engine.requests[0]["sampling_params"][field] == value


async def test_chat_stream_headers_keep_proxies_from_buffering(gateway: RunningGateway) -> None:
    response = await gateway.post({"model": MODEL, "messages": HI, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"]
    assert "content-length" not in response.headers
    # aiohttp's client offers gzip and deflate.
    assert "content-encoding" not in response.headers


async def test_chat_tool_call_is_the_same_whole_and_streamed(gateway: RunningGateway) -> None:
    text = "Let me check.\n" + CALL
    gateway.engine.will_say(*pieces(text))
    whole = await gateway.openai.chat.completions.create(model=MODEL, messages=HI, tools=WEATHER)
    choice = whole.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me check.\n"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris", "days": 3}

    gateway.engine.will_say(*pieces(text))
    chunks = await stream_lines(gateway, {"tools": WEATHER})
    assert chunks.pop() == "[DONE]"
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert "".join(d.get("content") or "" for d in deltas) == choice.message.content
    calls = [piece for d in deltas for piece in d.get("tool_calls", [])]
    assert calls[0] == {
        "index": 0,
        "id": calls[0]["id"],
        "type": "function",
        "function": {"name": "get_weather", "arguments": ""},
    }
    assert all(set(piece) == {"index", "function"} for piece in calls[1:])
    assert all(set(piece["function"]) == {"arguments"} for piece in calls[1:])
    assert "".join(piece["function"]["arguments"] for piece in calls) == call.function.arguments
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_chat_reads_special_tokens_of_calls_only_with_tools(gateway: RunningGateway) -> None:
    bodies: list[dict[str, Any]] = [{"tools": WEATHER}, {"tools": WEATHER, "tool_choice": "none"}, {}]
    messages = []
    for body in bodies:
        gateway.engine.will_say(*f"Well.<longcat_pad>{CALL}")
        answer = await (await gateway.post({"model": MODEL, "messages": HI, **body})).json()
        messages.append(answer["choices"][0]["message"])
    assert [len(message.get("tool_calls", ())) for message in messages] == [1, 0, 0]
    # Markers without a meaning, and other special tokens, are no content.
    assert messages[0]["content"] == "Well."
    assert messages[1]["content"] == messages[2]["content"] == "Well.get_weather\ncity\nParis\ndays\n3\n\n"
    assert not any(request["sampling_params"]["skip_special_tokens"] for request in gateway.engine.requests)
    lengths = [len(request["input_ids"]) for request in gateway.engine.requests]
    assert lengths[0] > lengths[1] == lengths[2]


async def test_chat_finish_reason_is_length_for_an_unfinished_call(gateway: RunningGateway) -> None:
    gateway.engine.will_say(CALL[:70], finish={"type": "length", "length": 1})
    answer = await gateway.openai.chat.completions.create(model=MODEL, messages=HI, tools=WEATHER)
    assert answer.choices[0].finish_reason == "length"


async def test_chat_returns_one_call_without_parallel_tool_calls(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(CALL + CALL))
    answer = await gateway.openai.chat.completions.create(
        model=MODEL, messages=HI, tools=WEATHER, parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or ()) == 1
    gateway.engine.will_say(*pieces(CALL + CALL))
    answer = await gateway.openai.chat.completions.create(model=MODEL, messages=HI, tools=WEATHER)
    ids = [call.id for call in answer.choices[0].message.tool_calls or ()]
    assert len(ids) == len(set(ids)) == 2


async def test_chat_renders_tool_results_in_call_order(gateway: RunningGateway) -> None:
    def call(call_id: str, city: str) -> dict[str, Any]:
        function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
        return {"id": call_id, "type": "function", "function": function}

    assistant: Any = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call("a", "Paris"), call("b", "Rome")],
    }
    results: list[Any] = [
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "tool", "tool_call_id": "b", "content": "sun"},
    ]
    for order in (results, results[::-1]):
        answer = await gateway.openai.chat.completions.create(
            model=MODEL, messages=[*HI, assistant, *order], tools=WEATHER
        )
        assert answer.choices[0].message.content == "Hello world"
    first, second = gateway.engine.requests
    assert first["input_ids"] == second["input_ids"]


async def test_chat_choices_share_the_prompt(gateway: RunningGateway) -> None:
    gateway.engine.will_say("a")
    gateway.engine.will_say("b", "c")
    answer = await gateway.openai.chat.completions.create(model=MODEL, messages=HI, n=2, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.message.content for choice in answer.choices} == {"a", "bc"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert answer.usage.prompt_tokens == len(gateway.engine.requests[0]["input_ids"])
    assert {request["sampling_params"]["sampling_seed"] for request in gateway.engine.requests} == {5, 6}
    assert len({request["rid"] for request in gateway.engine.requests}) == 2


async def test_chat_streams_begin_and_finish_of_each_choice_once(gateway: RunningGateway) -> None:
    gateway.engine.will_say("a")
    gateway.engine.will_say("b", "c")
    chunks = await stream_lines(gateway, {"n": 2})
    assert chunks.pop() == "[DONE]"
    for index in (0, 1):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert mine[0]["delta"].get("role") == "assistant"
        assert [c["finish_reason"] for c in mine].count("stop") == 1
        assert mine[-1]["finish_reason"] == "stop"


async def test_chat_sampling_fields_override_defaults_of_the_checkpoint(
    gateway: RunningGateway,
) -> None:
    await gateway.post(
        {
            "model": MODEL,
            "messages": HI,
            "temperature": 0,
            "top_k": 5,
            "max_tokens": 9,
            "max_completion_tokens": 7,
            "stop": "x",
            "presence_penalty": None,
            "logit_bias": {"3": -100},
        }
    )
    params = gateway.engine.requests[0]["sampling_params"]
    assert params["temperature"] == 0
    assert params["top_k"] == 5
    assert params["max_new_tokens"] == 7
    assert params["stop"] == ["x"]
    assert params["logit_bias"] == {"3": -100}
    assert "presence_penalty" not in params
    assert params["top_p"] == 0.9  # generation_config.json of the demo checkpoint


async def test_chat_without_a_limit_overrides_the_engine_default(
    gateway: RunningGateway,
) -> None:
    await gateway.post({"model": MODEL, "messages": HI})
    params = gateway.engine.requests[0]["sampling_params"]
    assert "max_new_tokens" in params
    assert params["max_new_tokens"] is None


async def test_chat_top_p_zero_is_greedy(gateway: RunningGateway) -> None:
    await gateway.post({"model": MODEL, "messages": HI, "top_p": 0})
    params = gateway.engine.requests[0]["sampling_params"]
    assert (params["top_p"], params["top_k"]) == (1.0, 1)


async def test_chat_logprobs_are_the_same_whole_and_streamed(gateway: RunningGateway) -> None:
    logprobs = [[[-0.5, 100, "Hel"]], [[-0.25, 101, "lo"]]]
    gateway.engine.will_say("Hel", "lo", logprobs=logprobs, finish={"type": "length", "length": 2})
    whole = await gateway.openai.chat.completions.create(
        model=MODEL, messages=HI, logprobs=True, top_logprobs=1, max_tokens=2
    )
    content = whole.choices[0].logprobs
    assert content is not None
    assert content.content is not None
    assert [(entry.token, entry.logprob, entry.bytes) for entry in content.content] == [
        ("Hel", -0.5, list(b"Hel")),
        ("lo", -0.25, list(b"lo")),
    ]
    assert content.content[0].top_logprobs[0].token == "Hel"
    gateway.engine.will_say("Hel", "lo", logprobs=logprobs, finish={"type": "length", "length": 2})
    chunks = await stream_lines(gateway, {"logprobs": True, "top_logprobs": 1})
    streamed = [
        entry["token"]
        for chunk in chunks[:-1]
        if chunk["choices"][0]["logprobs"]
        for entry in chunk["choices"][0]["logprobs"]["content"]
    ]
    assert streamed == ["Hel", "lo"]


async def test_chat_stop_token_has_no_logprob(gateway: RunningGateway) -> None:
    gateway.engine.will_say("Hi", "", logprobs=[[[-0.5, 100, "Hi"]], [[-0.1, 2, "</longcat_s>"]]])
    answer = await gateway.openai.chat.completions.create(model=MODEL, messages=HI, logprobs=True)
    assert answer.choices[0].logprobs is not None
    assert [entry.token for entry in answer.choices[0].logprobs.content or ()] == ["Hi"]


async def test_chat_stream_begins_while_the_engine_is_silent() -> None:
    async with running_gateway(first_byte_s=0.0, ping_interval_s=0.02) as gateway:
        gateway.engine.will_say("a", "b", "c", delay_s=0.1)
        response = await gateway.post({"model": MODEL, "messages": HI, "stream": True})
        text = await response.text()
    assert text.startswith(": ping\n\n")
    assert text.count(": ping\n\n") > 1
    assert all(
        event.startswith((": ping", "data: {", "data: [DONE]")) for event in text.split("\n\n") if event
    )


async def test_chat_renders_large_conversations_in_a_thread() -> None:
    messages = [{"role": "user", "content": "word " * 500}]
    sent = []
    for limit in (0, 1 << 30):
        async with running_gateway(inline_render_bytes=limit) as gateway:
            assert (await gateway.post({"model": MODEL, "messages": messages})).status == 200
            sent.append(gateway.engine.requests[0]["input_ids"])
    assert sent[0] == sent[1]


async def test_chat_sends_the_engine_its_key() -> None:
    async with running_gateway(engine_api_key="engine-secret") as gateway:
        await gateway.post({"model": MODEL, "messages": HI})
        assert gateway.engine.headers[0]["Authorization"] == "Bearer engine-secret"


async def test_chat_refuses_a_context_overflow_before_the_engine() -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT), context_length=100, max_req_input_len=64)
    async with running_gateway(engine=engine, max_tokens_beyond_context="refuse") as gateway:
        long = await gateway.post({"model": MODEL, "messages": [{"role": "user", "content": "word " * 200}]})
        greedy = await gateway.post({"model": MODEL, "messages": HI, "max_tokens": 2**31})
        fits = await gateway.post({"model": MODEL, "messages": HI, "max_tokens": 10})
        for response in (long, greedy):
            assert response.status == 400
            error = (await response.json())["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
            assert "100" in error["message"]
        assert str(2**31) in (await greedy.json())["error"]["message"]
        assert fits.status == 200
        assert len(engine.requests) == 1


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_chat_cuts_a_limit_beyond_the_context_to_the_room_left(field: str) -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT), context_length=100, max_req_input_len=99)
    async with running_gateway(engine=engine) as gateway:
        for words, status in ((1, 200), (30, 200), (60, 200), (99, 400)):
            messages = [{"role": "user", "content": "a " * words}]
            response = await gateway.post({"model": MODEL, "messages": messages, field: 32000})
            assert response.status == status
        for request in engine.requests:
            assert request["sampling_params"]["max_new_tokens"] == 100 - len(request["input_ids"])
        assert len(engine.requests) == 3
        await gateway.post({"model": MODEL, "messages": HI, field: 3})
        assert engine.requests[-1]["sampling_params"]["max_new_tokens"] == 3


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "function": {"name": "get_weather"}}],
    ids=["required", "named"],
)
async def test_chat_constrains_the_model_to_a_required_call(gateway: RunningGateway, choice: Any) -> None:
    gateway.engine.will_say(*pieces(CALL))
    other: Any = {
        "type": "function",
        "function": {"name": "other", "parameters": {"type": "object", "properties": {}}},
    }
    answer = await gateway.openai.chat.completions.create(
        model=MODEL, messages=HI, tools=[*WEATHER, other], tool_choice=choice
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    grammar = compiled(json.loads(gateway.engine.requests[0]["sampling_params"]["structural_tag"]))
    assert accepts(grammar, CALL)
    assert not accepts(grammar, "It is sunny.")
    assert not accepts(grammar, CALL.replace("Paris", "").replace(">3<", ">three<"))
    named = isinstance(choice, dict)
    assert accepts(grammar, "<longcat_tool_call>other\n</longcat_tool_call>\n") is not named


async def test_chat_does_not_constrain_optional_calls(gateway: RunningGateway) -> None:
    for choice in ("auto", "none", None):
        await gateway.post({"model": MODEL, "messages": HI, "tools": WEATHER, "tool_choice": choice})
    assert all("structural_tag" not in request["sampling_params"] for request in gateway.engine.requests)


async def test_chat_refuses_an_unenforceable_schema_only_if_strict(
    gateway: RunningGateway,
) -> None:
    parameters: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
    parameters["properties"]["a"] = {"type": "array", "uniqueItems": True}
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": HI,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}],
    }
    assert (await gateway.post(body)).status == 200
    assert (await gateway.post({**body, "tool_choice": "required"})).status == 200
    body["tools"][0]["function"]["strict"] = True
    response = await gateway.post({**body, "tool_choice": "required"})
    assert response.status == 400
    assert (await response.json())["error"]["param"] == "tools"


async def test_chat_refuses_forced_calls_whose_parameters_are_no_object(gateway: RunningGateway) -> None:
    function = {"name": "f", "parameters": {"type": "string"}}
    body = {"model": MODEL, "messages": HI, "tools": [{"type": "function", "function": function}]}
    assert (await gateway.post(body)).status == 200
    response = await gateway.post({**body, "tool_choice": "required"})
    assert response.status == 400
    error = (await response.json())["error"]
    assert error["param"] == "tools"
    assert "tools/f/parameters/type: arguments are an object" in error["message"]


PERSON: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        },
    },
}


async def test_chat_constrains_the_model_to_json(gateway: RunningGateway) -> None:
    written = '{"name": "Ada", "age": 36}'
    gateway.engine.will_say(*pieces(written))
    answer = await gateway.openai.chat.completions.create(model=MODEL, messages=HI, response_format=PERSON)
    assert answer.choices[0].message.content == written
    sampling = gateway.engine.requests[0]["sampling_params"]
    # A string may contain the text of a special token, and has to reach the client whole.
    assert sampling["skip_special_tokens"] is False
    grammar = compiled(json.loads(sampling["structural_tag"]))
    assert accepts(grammar, written)
    assert not accepts(grammar, '{"name": "Ada"}')


@pytest.mark.parametrize("tools", [[], WEATHER], ids=["without tools", "with tools"])
async def test_chat_json_may_quote_a_call(gateway: RunningGateway, tools: list[Any]) -> None:
    written = json.dumps({"name": CALL, "age": 3})
    gateway.engine.will_say(*pieces(written))
    body = {"model": MODEL, "messages": HI, "response_format": PERSON, "tools": tools}
    choice = (await (await gateway.post(body)).json())["choices"][0]
    assert choice["message"]["content"] == written
    assert "tool_calls" not in choice["message"]


async def test_chat_tools_can_be_called_beside_json(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(CALL))
    answer = await gateway.openai.chat.completions.create(
        model=MODEL, messages=HI, tools=WEATHER, response_format=PERSON
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    grammar = compiled(json.loads(gateway.engine.requests[0]["sampling_params"]["structural_tag"]))
    assert accepts(grammar, CALL)
    assert accepts(grammar, '{"name": "Ada", "age": 36}')
    assert not accepts(grammar, "Hello.")


async def test_chat_refuses_an_unenforceable_json_schema_with_its_path(gateway: RunningGateway) -> None:
    strict = json.loads(json.dumps(PERSON))
    strict["json_schema"]["schema"]["properties"]["name"]["pattern"] = "(a+)+$"
    response = await gateway.post({"model": MODEL, "messages": HI, "response_format": strict})
    assert response.status == 400
    error = (await response.json())["error"]
    assert error["param"] == "response_format"
    assert "response_format/json_schema/schema/properties/name/pattern" in error["message"]
    assert gateway.engine.requests == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "stop", "arguments"),
    [
        (CALL, "aris", ['{"city": "P']),
        (CALL, "days", ['{"city": "Paris"']),
        (CALL, "\n", []),
        (CALL + CALL.replace("Paris", "Rome"), "ome", ['{"city": "Paris", "days": 3}', '{"city": "R']),
        (CALL.replace("\n", "") + CALL, "\n", ['{"city": "Paris", "days": 3}']),
    ],
    ids=["value", "name of an argument", "name of the tool", "second call", "name of the second tool"],
)
async def test_chat_call_cut_by_stop_string_is_not_one_to_execute(
    gateway: RunningGateway, text: str, stop: str, arguments: list[str], *, stream: bool
) -> None:
    gateway.engine.will_say(*pieces(text.partition(stop)[0]), finish={"type": "stop", "matched": stop})
    body = {"model": MODEL, "messages": HI, "tools": WEATHER, "stop": stop}
    if stream:
        chunks = await stream_lines(gateway, body)
        found = [""] * len(arguments)
        for piece in (p for c in chunks[:-1] for p in c["choices"][0]["delta"].get("tool_calls", ())):
            found[piece["index"]] += piece["function"]["arguments"]
        reason = chunks[-2]["choices"][0]["finish_reason"]
    else:
        choice = (await (await gateway.post(body)).json())["choices"][0]
        found = [call["function"]["arguments"] for call in choice["message"].get("tool_calls", ())]
        reason = choice["finish_reason"]
    assert (found, reason) == (arguments, "stop")


async def test_chat_answer_that_was_cut_can_be_sent_back(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(CALL)[:20], finish={"type": "length", "length": 20})
    first = await (await gateway.post({"model": MODEL, "messages": HI, "tools": WEATHER})).json()
    message = first["choices"][0]["message"]
    assert first["choices"][0]["finish_reason"] == "length"
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "no JSON"}
    response = await gateway.post({"model": MODEL, "messages": [*HI, message, result, *HI], "tools": WEATHER})
    assert response.status == 200


async def test_chat_passes_on_call_of_undeclared_tool_that_can_be_sent_back(gateway: RunningGateway) -> None:
    gateway.engine.will_say(*pieces(CALL.replace("get_weather", "default_api.Read")))
    first = await (await gateway.post({"model": MODEL, "messages": HI, "tools": WEATHER})).json()
    message = first["choices"][0]["message"]
    assert first["choices"][0]["finish_reason"] == "tool_calls"
    assert message["tool_calls"][0]["function"]["name"] == "default_api.Read"
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "no such tool"}
    response = await gateway.post({"model": MODEL, "messages": [*HI, message, result], "tools": WEATHER})
    assert response.status == 200


async def test_chat_tells_call_by_token_ids_from_its_text(gateway: RunningGateway) -> None:
    tokenizer, _ = load_tokenizer(DEMO_CHECKPOINT)
    for stream in (False, True):
        gateway.engine.will_say(CALL, ids=[list(tokenizer.encode_text(CALL))])
        body = {"model": MODEL, "messages": HI, "tools": WEATHER}
        if stream:
            chunks = await stream_lines(gateway, body)
            content = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks[:-1])
        else:
            content = (await (await gateway.post(body)).json())["choices"][0]["message"]["content"]
        assert content == CALL


async def test_chat_under_grammar_takes_text_of_call_for_one(gateway: RunningGateway) -> None:
    """The grammar of a required call has read the text as a call, whichever tokens wrote it."""
    tokenizer, _ = load_tokenizer(DEMO_CHECKPOINT)
    gateway.engine.will_say(CALL, ids=[list(tokenizer.encode_text(CALL))])
    body = {"model": MODEL, "messages": HI, "tools": WEATHER, "tool_choice": "required"}
    assert (await (await gateway.post(body)).json())["choices"][0]["finish_reason"] == "tool_calls"
