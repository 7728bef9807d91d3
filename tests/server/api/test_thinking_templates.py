"""Templates of models that think: they open the reasoning themselves, or write that there is none.

They are made of the demo model's template; no published template of such a model is at hand.
"""

import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serval.chat.tokenizer import load_tokenizer
from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.grammar_walk import accepts, compiled
from serval_testkit.longcat_text import call
from serval_testkit.stand_in_engine import STOP, StandInEngine

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = call("f")
HI: list[Any] = [{"role": "user", "content": "Hi"}]
SWITCH = """
{%- if enable_thinking == true -%}{{- '<longcat_think>\\n' -}}
{%- elif enable_thinking == false -%}{{- '<longcat_think>\\n\\n</longcat_think>\\n' -}}{%- endif -%}
"""


DEFAULT_ON = "{%- set enable_thinking = enable_thinking | default(true) -%}"
DEMO_TEMPLATE = (DEMO_CHECKPOINT / "chat_template.jinja").read_text()
# Reasoning comes back in the form in which the prompt opens it; the demo's begins with a line break.
SAME_FORM = DEMO_TEMPLATE.replace("'\\n<longcat_think>\\n'", "'<longcat_think>\\n'")
THOUGHTS = "They want it.\n</longcat_think>\nI run it."


def folder_with(template: str, folder: Path) -> str:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_CHECKPOINT / name, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Folder of a model that thinks."""
    return folder_with(DEMO_TEMPLATE + SWITCH, tmp_path)


@pytest.mark.parametrize(
    ("fields", "reasoning", "content"),
    [
        ({"enable_thinking": True}, "They greet me.", "Hello"),
        ({"thinking": {"type": "enabled"}}, "They greet me.", "Hello"),
        ({"enable_thinking": False}, None, "They greet me.\n</longcat_think>\nHello"),
        ({"reasoning_effort": "none"}, None, "They greet me.\n</longcat_think>\nHello"),
        ({}, None, "They greet me.\n</longcat_think>\nHello"),
    ],
    ids=str,
)
async def test_answer_begins_with_reasoning_if_the_template_has_opened_it(
    model: str, fields: dict[str, Any], reasoning: str | None, content: str
) -> None:
    async with running_gateway(engine=StandInEngine(model_path=model)) as gateway:
        gateway.engine.will_say("They greet me.\n</longcat_think>\nHello")
        answer = await (await gateway.post({"model": MODEL, "messages": HI, **fields})).json()
        message = answer["choices"][0]["message"]
        assert (message.get("reasoning_content"), message["content"]) == (reasoning, content)


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"tools": [TOOL], "tool_choice": "required"}, CALL),
        ({"response_format": {"type": "json_object"}}, '{"a": 1}'),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, CALL),
    ],
    ids=["calls", "JSON", "calls or JSON"],
)
async def test_grammar_begins_after_reasoning_that_the_template_has_opened(
    model: str, fields: dict[str, Any], answer: str
) -> None:
    reasoning = "They greet me: {.\n</longcat_think>\n"
    async with running_gateway(engine=StandInEngine(model_path=model)) as gateway:
        for thinking in (True, False):
            body = {"model": MODEL, "messages": HI, "enable_thinking": thinking, **fields}
            assert (await gateway.post(body)).status == 200
        grammars = [
            compiled(json.loads(request["sampling_params"]["structural_tag"]))
            for request in gateway.engine.requests
        ]
    assert [accepts(grammar, reasoning + answer) for grammar in grammars] == [True, False]
    assert [accepts(grammar, answer) for grammar in grammars] == [False, True]
    assert not accepts(grammars[0], reasoning + "Hello")


async def test_responses_effort_none_switches_thinking_off(model: str) -> None:
    async with running_gateway(engine=StandInEngine(model_path=model)) as gateway:
        for effort in ("none", "high"):
            body = {"model": MODEL, "input": "Hi", "reasoning": {"effort": effort}}
            assert (await gateway.post(body, path="/v1/responses")).status == 200
        off, default = (request["input_ids"] for request in gateway.engine.requests)
    assert off[: len(default)] == default
    assert len(off) > len(default)


async def chat_loop(gateway: RunningGateway, name: str) -> None:
    """Let an agent call a tool once; `name` is that of the reasoning when it comes back."""
    messages: list[Any] = [*HI]
    for _ in range(2):
        body = {"model": MODEL, "messages": messages, "tools": [TOOL]}
        message = (await (await gateway.post(body)).json())["choices"][0]["message"]
        message[name] = message.pop("reasoning_content", None)
        messages += [message]
        for called in message.get("tool_calls") or []:
            messages.append({"role": "tool", "tool_call_id": called["id"], "content": "done"})


async def messages_loop(gateway: RunningGateway) -> None:
    messages: list[Any] = [*HI]
    tools = [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]
    for _ in range(2):
        body = {"model": MODEL, "max_tokens": 99, "messages": messages, "tools": tools}
        content = (await (await gateway.post(body, path="/v1/messages")).json())["content"]
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "done"}
            for block in content
            if block["type"] == "tool_use"
        ]
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]


async def responses_loop(gateway: RunningGateway) -> None:
    items: list[Any] = [*HI]
    for _ in range(2):
        body = {"model": MODEL, "input": items, "tools": [{"type": "function", **TOOL["function"]}]}  # type: ignore[dict-item]
        output = (await (await gateway.post(body, path="/v1/responses")).json())["output"]
        items += output
        for item in output:
            if item["type"] == "function_call":
                items.append({"type": "function_call_output", "call_id": item["call_id"], "output": "done"})


@pytest.mark.parametrize(
    "loop",
    [
        lambda gateway: chat_loop(gateway, "reasoning_content"),
        lambda gateway: chat_loop(gateway, "reasoning"),
        messages_loop,
        responses_loop,
    ],
    ids=["chat", "chat, as reasoning", "messages", "responses"],
)
async def test_reasoning_that_comes_back_keeps_the_prefix(
    tmp_path: Path, loop: Callable[[RunningGateway], Awaitable[None]]
) -> None:
    """The second prompt begins with the first and the model's answer, token by token."""
    folder = folder_with(DEFAULT_ON + SAME_FORM + SWITCH, tmp_path)
    _, tokenizer = load_tokenizer(Path(folder))
    answer = [*tokenizer.encode(THOUGHTS + CALL, add_special_tokens=False).ids, STOP["matched"]]
    async with running_gateway(engine=StandInEngine(model_path=folder)) as gateway:
        gateway.engine.will_say(THOUGHTS + CALL)
        gateway.engine.will_say("Well.\n</longcat_think>\nDone.")
        await loop(gateway)
        first, second = (request["input_ids"] for request in gateway.engine.requests)
    assert second[: len(first) + len(answer)] == first + answer


async def test_prompt_opens_reasoning_behind_a_turn_that_had_some(tmp_path: Path) -> None:
    turn = "<longcat_assistant><longcat_think></longcat_think></longcat_s>"
    template = (
        "{%- for message in messages -%}{%- if message.role == 'assistant' -%}"
        f"{{{{- '{turn}' -}}}}{{%- else -%}}{{{{- '<longcat_user>' ~ message.content -}}}}"
        "{%- endif -%}{%- endfor -%}{{- '<longcat_assistant><longcat_think>' -}}"
    )
    messages = [*HI, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "a"}]
    async with running_gateway(engine=StandInEngine(model_path=folder_with(template, tmp_path))) as gateway:
        gateway.engine.will_say("Hm.</longcat_think>Yes")
        answer = await (await gateway.post({"model": MODEL, "messages": messages})).json()
    message = answer["choices"][0]["message"]
    assert (message.get("reasoning_content"), message["content"]) == ("Hm.", "Yes")


async def test_calls_are_held_to_the_format_of_the_template(tmp_path: Path) -> None:
    """A template that shows calls as JSON is of a model that was trained to write JSON."""
    macro = DEMO_TEMPLATE.index("{%- macro argument"), DEMO_TEMPLATE.index("{%- if declares_tools")
    in_json = (
        "{%- macro argument(key, value) -%}{%- endmacro -%}{%- macro call(function) -%}"
        "{{- '<longcat_tool_call>\\n' ~ function | tojson ~ '\\n</longcat_tool_call>' -}}{%- endmacro -%}"
    )
    template = DEMO_TEMPLATE[: macro[0]] + in_json + DEMO_TEMPLATE[macro[1] :]
    json_call = '<longcat_tool_call>\n{"name": "f", "arguments": {}}\n</longcat_tool_call>'
    async with running_gateway(engine=StandInEngine(model_path=folder_with(template, tmp_path))) as gateway:
        gateway.engine.will_say(json_call)
        body = {"model": MODEL, "messages": HI, "tools": [TOOL], "tool_choice": "required"}
        answer = await (await gateway.post(body)).json()
        (request,) = gateway.engine.requests
    grammar = compiled(json.loads(request["sampling_params"]["structural_tag"]))
    assert (accepts(grammar, json_call), accepts(grammar, CALL)) == (True, False)
    (called,) = answer["choices"][0]["message"]["tool_calls"]
    assert (called["function"]["name"], called["function"]["arguments"]) == ("f", "{}")


def token_pieces(text: str) -> list[str]:
    """Cut a text where the tokenizer does."""
    _, tokenizer = load_tokenizer(DEMO_CHECKPOINT)
    return [text[a:b] for a, b in tokenizer.encode(text, add_special_tokens=False).offsets]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("deltas", ["one", "one for each token"])
async def test_usage_counts_the_tokens_of_reasoning(model: str, stream: bool, deltas: str) -> None:
    """All tokens before the closing marker, wherever deltas end; the engine does not count them."""
    pieces = token_pieces("They greet me.\n</longcat_think>\nHello!")
    async with running_gateway(engine=StandInEngine(model_path=model)) as gateway:
        if deltas == "one":
            gateway.engine.will_say("".join(pieces), meta={"completion_tokens": len(pieces)})
        else:
            gateway.engine.will_say(*pieces)
        body: dict[str, Any] = {"model": MODEL, "messages": HI, "enable_thinking": True}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        text = await (await gateway.post(body)).text()
    usage = json.loads(text.split("data: ")[-2] if stream else text)["usage"]
    assert usage["completion_tokens"] == len(pieces)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == pieces.index("</longcat_think>")


@pytest.mark.parametrize(
    ("text", "thinking", "finish", "counted"),
    [
        ("<longcat_think>Hm</longcat_think>Hello", None, "stop", ["<longcat_think>", *token_pieces("Hm")]),
        ("They greet", True, "length", token_pieces("They greet")),
        ("\n\n", True, "length", token_pieces("\n\n")),
        ("</longcat_think>Hello", True, "stop", []),
        ("Hello", None, "stop", []),
    ],
    ids=["opened by the model", "cut", "blank", "empty", "none"],
)
async def test_usage_counts_reasoning_that_the_model_opens_cuts_or_leaves_out(
    model: str, text: str, thinking: bool | None, finish: str, counted: list[str]
) -> None:
    async with running_gateway(engine=StandInEngine(model_path=model)) as gateway:
        gateway.engine.will_say(*token_pieces(text), finish={"type": finish})
        body = {"model": MODEL, "messages": HI, "enable_thinking": thinking}
        answer = await (await gateway.post(body)).json()
    details = answer["usage"]["completion_tokens_details"]
    assert details["reasoning_tokens"] == len(counted)
