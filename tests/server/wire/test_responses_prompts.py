"""Prompts of the Responses API: text stays text, and each begins with that of the turn before."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from serval.chat import ChatRenderer, load_chat
from serval.grammar.dialects.longcat import LONGCAT
from serval.tools.events import ContentDelta, ReasoningDelta, ToolCallStart
from serval.wire.chat_request import Tool
from serval.wire.responses.decode import DecodedResponses, add_messages, decode_responses_request
from serval.wire.responses.events import EventWriter
from serval.wire.responses.item_events import ItemEvents
from serval_testkit.model_folder import CONTROL_TOKENS, write_model_folder

FOLDERS: dict[str, dict[str, Any]] = {"special": {"special": True}, "not special": {"special": False}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[ChatRenderer, set[int]]]:
    found = []
    for options in FOLDERS.values():
        folder = write_model_folder(tmp_path_factory.mktemp("model"), **options)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        found.append((load_chat(folder), set(tokenizer.get_added_tokens_decoder())))
    return found


def decoded(renderer: ChatRenderer, request: dict[str, Any]) -> DecodedResponses:
    made = decode_responses_request(msgspec.json.encode({"model": "m", **request}), strict=True)

    def declare(tool: Tool) -> str:
        return renderer.declarations.text_of(msgspec.to_builtins(tool))

    add_messages(made, non_text_parts="omit", declare=declare)
    return made


def prompt(renderer: ChatRenderer, request: dict[str, Any]) -> Any:
    chat = decoded(renderer, request).chat
    return renderer.render(msgspec.to_builtins(chat.messages), tools=msgspec.to_builtins(chat.tools or []))


hostile = st.lists(
    st.one_of(
        st.sampled_from(CONTROL_TOKENS),
        st.sampled_from(["<longcat_", "user>", "<", ">", "</longcat_s", " ", "\n"]),
        st.text(max_size=8).map(lambda text: text.encode("utf-8", "replace").decode()),
    ),
    max_size=5,
).map("".join)
parts = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "input_text", "text": text}, hostile),
        st.builds(lambda url: {"type": "input_image", "image_url": url}, hostile),
    ),
    max_size=2,
)
content = st.one_of(hostile, parts)
schema = st.builds(
    lambda key, text: {"type": "object", "properties": {key: {"description": text}}}, hostile, hostile
)
function = st.builds(
    lambda name, text, parameters: {
        "type": "function",
        "name": f"f{name}",
        "description": text,
        "parameters": parameters,
    },
    st.integers(0, 999),
    hostile,
    schema,
)


def answered(call: dict[str, Any], kind: str, output: Any) -> list[dict[str, Any]]:
    return [call, {"type": kind, "call_id": call["call_id"], "output": output}]


items = st.one_of(
    st.builds(
        lambda role, text: [{"role": role, "content": text}],
        st.sampled_from(["user", "developer", "assistant"]),
        content,
    ),
    st.builds(
        lambda name, namespace, arguments, output: answered(
            {
                "type": "function_call",
                "call_id": "1",
                "name": name,
                "namespace": namespace,
                "arguments": arguments,
            },
            "function_call_output",
            output,
        ),
        hostile,
        st.one_of(st.none(), hostile),
        st.one_of(hostile, st.dictionaries(hostile, hostile, max_size=2).map(json.dumps)),
        content,
    ),
    st.builds(
        lambda name, text, output: answered(
            {"type": "custom_tool_call", "call_id": "1", "name": name, "input": text},
            "custom_tool_call_output",
            output,
        ),
        hostile,
        hostile,
        content,
    ),
    st.builds(
        lambda text, tools: [
            {"type": "tool_search_call", "call_id": "1", "arguments": {text: text}},
            {"type": "tool_search_output", "call_id": "1", "tools": tools},
        ],
        hostile,
        st.lists(function, max_size=2),
    ),
    st.builds(
        lambda text, output: answered(
            {"type": "local_shell_call", "call_id": "1", "action": {"command": [text], "env": {text: text}}},
            "local_shell_call_output",
            output,
        ),
        hostile,
        hostile,
    ),
    st.builds(
        lambda text: [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}], hostile
    ),
)
requests = st.builds(
    lambda first, rest, instructions, functions, texts: {
        "input": [{"role": "user", "content": first}, *(item for group in rest for item in group)],
        "instructions": instructions,
        "tools": [
            {"type": "namespace", "name": "n", "description": texts[0], "tools": functions},
            {
                "type": "custom",
                "name": "c",
                "description": texts[1],
                "format": {"type": "grammar", "syntax": "lark", "definition": texts[2]},
            },
            {"type": "tool_search", "execution": "client", "description": texts[3], "parameters": {}},
        ],
    },
    content,
    st.lists(items, max_size=3),
    st.one_of(st.none(), hostile),
    st.lists(function, max_size=1),
    st.lists(hostile, min_size=4, max_size=4),
)


def harmless(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("<", "(").replace(">", ")")
    if isinstance(value, dict):
        return {harmless(key): harmless(item) for key, item in value.items()}
    return [harmless(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=200)
@given(request=requests)
def test_prompt_takes_control_tokens_only_from_the_template(
    models: list[tuple[ChatRenderer, set[int]]], request: dict[str, Any]
) -> None:
    for renderer, controls in models:
        found = [each for each in prompt(renderer, request).input_ids if each in controls]
        expected = [each for each in prompt(renderer, harmless(request)).input_ids if each in controls]
        assert found == expected


TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "f", "parameters": {"properties": {"a": {"type": "string"}, "b": {}}}},
    {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]},
    {"type": "custom", "name": "patch"},
    {"type": "tool_search", "execution": "client", "parameters": {"properties": {"a": {"type": "string"}}}},
    {"type": "local_shell"},
]


def written_call(name: str, *pairs: tuple[str, str]) -> str:
    arguments = "".join(
        f"<longcat_arg_key>{key}</longcat_arg_key>\n<longcat_arg_value>{value}</longcat_arg_value>\n"
        for key, value in pairs
    )
    return f"<longcat_tool_call>{name}\n{arguments}</longcat_tool_call>\n"


plain = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=12)
values = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none())
calls = st.one_of(
    st.builds(lambda a, b: written_call("f", ("a", a), ("b", json.dumps(b))), plain, values),
    st.builds(lambda a: written_call("n.f", ("c", json.dumps(a))), values),
    st.builds(lambda text: written_call("patch", ("input", text)), plain),
    st.builds(lambda text: written_call("tool_search", ("a", text)), plain),
    st.builds(
        lambda words, ms: written_call(
            "local_shell",
            ("command", json.dumps(words, ensure_ascii=False)),
            ("timeout_ms", str(ms)),
        ),
        st.lists(plain, min_size=1, max_size=2),
        st.integers(0, 9999),
    ),
)
texts = st.one_of(st.just(""), plain.filter(lambda text: bool(text.strip())))
turns = st.lists(st.tuples(texts, st.lists(calls, max_size=2)), min_size=1, max_size=3)


def items_of(text: str, made: DecodedResponses) -> list[dict[str, Any]]:
    """Return the items that a client gets for the text."""
    tools = msgspec.to_builtins([*made.tools.declared, *made.tools.deferred])
    parser = LONGCAT.parser(tools)
    written = ItemEvents("resp_0", made.tools.called, EventWriter())
    for event in [*parser.feed(text), *parser.finish("stop")]:
        if isinstance(event, ContentDelta):
            written.content(event.text)
        elif isinstance(event, ReasoningDelta):
            written.reasoning(event.text)
        elif isinstance(event, ToolCallStart):
            written.call(f"call_{event.index}", event.name)
        else:
            written.arguments(event.text)
    written.finish("completed")
    return written.items


def outputs_of(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    outputs = []
    for item in answer:
        if item["type"] == "tool_search_call":
            loaded = [{"type": "function", "name": "late", "parameters": {"type": "object"}}]
            outputs.append({"type": "tool_search_output", "call_id": item["call_id"], "tools": loaded})
        elif "call_id" in item:
            kind = "custom_tool_call_output" if item["type"] == "custom_tool_call" else "function_call_output"
            outputs.append({"type": kind, "call_id": item["call_id"], "output": "ok"})
    return outputs or [{"role": "user", "content": "Go on"}]


@settings(deadline=None, max_examples=150)
@given(turns=turns)
def test_prompt_begins_with_that_of_the_turn_before_and_its_answer(
    models: list[tuple[ChatRenderer, set[int]]], turns: list[tuple[str, list[str]]]
) -> None:
    renderer = models[0][0]
    conversation: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
    for text, written_calls in turns:
        request = {"input": conversation, "tools": TOOLS}
        before = prompt(renderer, request).text
        written = text + "".join(written_calls)
        answer = items_of(written, decoded(renderer, request))
        conversation = [*conversation, *answer, *outputs_of(answer)]
        after = prompt(renderer, {"input": conversation, "tools": TOOLS}).text
        assert after.startswith(before + written)
