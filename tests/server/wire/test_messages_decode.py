"""Requests of the Messages API as those of Chat Completions."""

import json
from typing import Any

import pytest

from serval.errors import InvalidRequestError
from serval.wire.chat_request import ChatRequest, ContentPart, Tool
from serval.wire.messages.decode import (
    DecodedMessages,
    Reading,
    decode_count_request,
    decode_messages_request,
)
from serval.wire.omitted_parts import NonTextParts
from serval.wire.tool_choice import NamedToolChoice

IMAGE: dict[str, Any] = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}
OMITTED = "[image omitted: this model reads text only]"
CALLS: dict[str, Any] = {
    "role": "assistant",
    "content": [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "a", "name": "Read", "input": {"path": "x"}},
        {"type": "tool_use", "id": "b", "name": "List", "input": {}},
    ],
}
TOOL: dict[str, Any] = {"name": "Read", "description": "Reads.", "input_schema": {"type": "object"}}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def result(call: str, content: Any = "done", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": content, **more}


def named(tool: Tool) -> str:
    assert tool.function is not None
    return f"<declaration of {tool.function.name}>"


def reading(
    non_text_parts: NonTextParts = "refuse_new", *, strict: bool = True, billing: bool = False
) -> Reading:
    return Reading(
        strict_fields=strict,
        non_text_parts=non_text_parts,
        render_billing_block=billing,
        declaration_of=named,
    )


def decoded(
    *messages: Any, non_text_parts: NonTextParts = "refuse_new", strict: bool = True, **more: Any
) -> DecodedMessages:
    body = {"model": "m", "max_tokens": 8, "messages": messages, **more}
    return decode_messages_request(json.dumps(body).encode(), reading(non_text_parts, strict=strict))


def written(request: ChatRequest) -> list[tuple[str, str]]:
    """Return role and text of each message, as the template sees them."""

    def content(given: str | list[ContentPart] | None) -> str:
        return given if isinstance(given, str) else "\n".join(part.text or "" for part in given or ())

    return [(message.role, content(message.content)) for message in request.messages]


def refused(*messages: Any, **more: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        decoded(*messages, **more)
    return caught.value


def test_system_blocks_are_one_message_without_the_billing_block() -> None:
    billing = text("x-anthropic-billing-header: cc_version=2.1.332.642; cch=1;")
    request = decoded(user("Hi"), system=[billing, text("A", cache_control={}), text("B")]).request
    assert written(request) == [("system", "A\nB"), ("user", "Hi")]
    assert written(decoded(user("Hi"), system="A\nB").request) == written(request)
    assert written(decoded(user("Hi"), system=[billing]).request) == [("user", "Hi")]
    body = json.dumps({"model": "m", "max_tokens": 1, "messages": [user("Hi")], "system": [billing]})
    shown = decode_messages_request(body.encode(), reading(billing=True)).request
    assert written(shown)[0] == ("system", billing["text"])


def test_inline_system_message_stays_in_place_as_block_or_string() -> None:
    messages = [user("Hi"), {"role": "system", "content": "Left: 5"}, CALLS, user(result("a"), result("b"))]
    inline = decoded(*messages).request
    assert [role for role, _ in written(inline)] == ["user", "system", "assistant", "tool", "tool"]
    messages[1] = {"role": "system", "content": [text("Left: 5", cache_control={"type": "ephemeral"})]}
    assert written(decoded(*messages).request) == written(inline)


def test_results_come_before_the_text_of_their_turn() -> None:
    request = decoded(
        user("Hi"), CALLS, user(text("First,"), result("b", "B"), text("then.")), user(result("a", "A"))
    ).request
    assert written(request)[1:] == [
        ("assistant", "I look."),
        ("tool", "B"),
        ("tool", "A"),
        ("user", "First,\nthen."),
    ]
    assert [message.tool_call_id for message in request.messages[2:4]] == ["b", "a"]
    calls = request.messages[1].tool_calls
    assert calls is not None
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("a", "Read", {"path": "x"}),
        ("b", "List", {}),
    ]


def test_result_keeps_the_text_of_an_error_and_may_be_empty() -> None:
    failed = result("a", [text("Exit code 3")], is_error=True)
    request = decoded(user("Hi"), CALLS, user(failed, {"type": "tool_result", "tool_use_id": "b"})).request
    assert written(request)[2:] == [("tool", "Exit code 3"), ("tool", "")]


def test_thoughts_that_come_back_are_reasoning_of_their_turn() -> None:
    thoughts = [{"type": "thinking", "thinking": each, "signature": ""} for each in ("Hm.", "", "Yes.")]
    request = decoded(
        user("Hi"), {"role": "assistant", "content": [*thoughts, text("Hello")]}, user("now")
    ).request
    assert [message.reasoning_content for message in request.messages] == [None, "Hm.\nYes.", None]
    assert written(request)[1] == ("assistant", "Hello")


def test_redacted_thoughts_and_blocks_of_servers_are_dropped() -> None:
    request = decoded(
        user("Hi"),
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": {"type": "error"}},
            ],
        },
        user("Go on"),
        user("now"),
    ).request
    assert written(request) == [("user", "Hi"), ("assistant", ""), ("user", "Go on"), ("user", "now")]


def test_assistant_messages_in_a_row_are_one_turn() -> None:
    request = decoded(
        user("Hi"), {"role": "assistant", "content": "Well."}, CALLS, user(result("a"), result("b"))
    ).request
    assert written(request)[1] == ("assistant", "Well.\nI look.")
    assert request.messages[1].tool_calls is not None


def test_last_message_of_the_assistant_is_continued() -> None:
    request = decoded(user("Hi"), {"role": "assistant", "content": [text("The answer is")]}).request
    assert request.continue_final_message
    assert not decoded(user("Hi")).request.continue_final_message


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"tools": [TOOL | {"strict": True}]},
        {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
    ],
)
def test_beginning_of_the_answer_is_refused_where_a_grammar_is_needed(more: dict[str, Any]) -> None:
    beginning = {"role": "assistant", "content": "{"}
    assert refused(user("Hi"), beginning, **more).param == "messages[1]"
    decoded(user("Hi"), **more)
    decoded(user("Hi"), beginning, tools=[TOOL])


def test_images_are_omitted_from_results_and_earlier_turns() -> None:
    history = [user(IMAGE, text("See")), CALLS, user(result("a", [IMAGE]), result("b"))]
    assert written(decoded(*history).request)[0] == ("user", f"{OMITTED}\nSee")
    assert written(decoded(*history).request)[2] == ("tool", OMITTED)
    assert refused(*history, non_text_parts="refuse").param == "messages[0].content[0].type"
    assert refused(*history[1:], non_text_parts="refuse").param == "messages[1].content[0].content[0].type"
    newest = [*history, {"role": "assistant", "content": "I see."}, user(text("And"), IMAGE)]
    error = refused(*newest)
    assert error.param == "messages[4].content[1].type"
    assert "text only" in error.message
    assert written(decoded(*newest, non_text_parts="omit").request)[-1] == ("user", f"And\n{OMITTED}")


def test_deferred_tools_are_declared_where_they_are_loaded() -> None:
    tools = [TOOL, {"name": "Fetch", "input_schema": {}, "defer_loading": True}]
    reference = {"type": "tool_reference", "tool_name": "Fetch"}
    gone = {"type": "tool_reference", "tool_name": "Gone"}
    given = decoded(user("Hi"), CALLS, user(result("a", [reference, gone]), result("b")), tools=tools)
    assert written(given.request)[2] == (
        "tool",
        "<declaration of Fetch>\n[tool Gone is not available]",
    )
    assert [tool.function.name for tool in given.request.tools or () if tool.function] == ["Read"]
    assert [tool.function.name for tool in given.deferred_tools if tool.function] == ["Fetch"]


def test_tool_is_declared_at_its_first_reference_only() -> None:
    """A body of many references to a long declaration would become a prompt of gigabytes."""
    tools = [{"name": "Fetch", "input_schema": {}, "defer_loading": True}]
    reference = {"type": "tool_reference", "tool_name": "Fetch"}
    first, second = (
        user(result("a", [reference]), result("b")),
        user(result("a", [reference] * 2), result("b")),
    )
    given = decoded(user("Hi"), CALLS, first, CALLS, second, tools=tools)
    again = "[tool Fetch is declared above]"
    assert [text for role, text in written(given.request) if role == "tool"] == [
        "<declaration of Fetch>",
        "done",
        f"{again}\n{again}",
        "done",
    ]


def test_deferred_tools_are_declared_at_once_if_the_server_would_search_them() -> None:
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    given = decoded(user("Hi"), tools=[search, TOOL | {"defer_loading": True}])
    assert len(given.request.tools or ()) == 1
    assert not given.deferred_tools


def test_tools_of_servers_are_left_out() -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    custom = TOOL | {"type": "custom", "eager_input_streaming": True, "cache_control": {}}
    request = decoded(user("Hi"), tools=[search, custom]).request
    assert [tool.function.name for tool in request.tools or () if tool.function] == ["Read"]
    assert refused(user("Hi"), tools=[search], tool_choice={"type": "any"}).param == "tool_choice"
    named_one = {"type": "tool", "name": "web_search"}
    assert refused(user("Hi"), tools=[search, TOOL], tool_choice=named_one).param == "tool_choice.name"


def test_tool_choices_are_those_of_chats() -> None:
    def chosen(**choice: Any) -> ChatRequest:
        return decoded(user("Hi"), tools=[TOOL], tool_choice=choice).request

    assert chosen(type="auto").tool_choice == "auto"
    assert chosen(type="any").tool_choice == "required"
    assert chosen(type="none").tool_choice == "none"
    assert chosen(type="auto", disable_parallel_tool_use=True).parallel_tool_calls is False
    assert chosen(type="auto").parallel_tool_calls is None
    one = chosen(type="tool", name="Read").tool_choice
    assert isinstance(one, NamedToolChoice)
    assert one.function is not None
    assert one.function.name == "Read"


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_output_format_is_a_response_format(place: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    more = {place: {"format": form, "effort": "high"} if place == "output_config" else form}
    given = decoded(user("Hi"), **more).request.response_format
    assert given is not None
    assert given.json_schema is not None
    assert given.json_schema.schema_ == {"type": "object"}
    assert not given.json_schema.strict


def test_sampling_fields_and_limit_are_taken_over() -> None:
    request = decoded(
        user("Hi"), max_tokens=99, temperature=0.5, top_p=0.9, top_k=7, stop_sequences=["a"], stream=True
    ).request
    assert (request.max_completion_tokens, request.stop, request.stream) == (99, ["a"], True)
    assert (request.temperature, request.top_p, request.top_k) == (0.5, 0.9, 7)


def test_switch_for_thinking_is_that_of_chats() -> None:
    thinking = decoded(user("Hi"), thinking={"type": "enabled", "budget_tokens": 1024}).request.thinking
    assert thinking is not None
    assert thinking.type == "enabled"


def test_fields_without_effect_are_accepted_in_strict_mode() -> None:
    decoded(
        user("Hi"),
        metadata={"user_id": "{}"},
        thinking={"type": "adaptive", "display": "omitted"},
        diagnostics={},
        context_management={"edits": []},
        output_config={"effort": "high"},
        cache_control={"type": "ephemeral"},
        service_tier="auto",
        mcp_servers=[],
        container=None,
    )
    assert refused(user("Hi"), colour="red").param == "colour"
    decoded(user("Hi"), colour="red", strict=False)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "no limit": ({"max_tokens": None}, "max_tokens"),
    "limit": ({"max_tokens": 0}, "max_tokens"),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    "content": ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    "text": ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
    "type of text": ({"messages": [user({"type": "text", "text": 1})]}, "messages[0].content[0].text"),
    "call of a user": ({"messages": [user(CALLS["content"][1])]}, "messages[0].content[0].type"),
    "result of nothing": ({"messages": [user(result("x"))]}, "messages[0].content[0].tool_use_id"),
    "result twice": (
        {"messages": [CALLS, user(result("a"), result("a"), result("b"))]},
        "messages[1].content[1].tool_use_id",
    ),
    "no result": ({"messages": [CALLS, user(result("a"))]}, "messages[0].content[2]"),
    "no result at the end": ({"messages": [user("Hi"), CALLS]}, "messages[1].content[1]"),
    "result behind a system message": (
        {"messages": [CALLS, {"role": "system", "content": "s"}, user(result("a"), result("b"))]},
        "messages[0].content[1]",
    ),
    "two calls of one id": (
        {"messages": [{"role": "assistant", "content": [CALLS["content"][1]] * 2}]},
        "messages[0].content[1].id",
    ),
    "input": (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f"}]}]},
        "messages[0].content[0].input",
    ),
    "reference": (
        {"messages": [CALLS, user(result("a", [{"type": "tool_reference"}]), result("b"))]},
        "messages[1].content[0].content[0].tool_name",
    ),
    "unknown block": ({"messages": [user({"type": "hologram"})]}, "messages[0].content[0].type"),
    "image in system": ({"system": [IMAGE]}, "system[0].type"),
    "tool without a name": ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
    "name of a tool": ({"tools": [TOOL | {"name": "a b"}]}, "tools[0].name"),
    "two tools of one name": ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    "schema": (
        {"tools": [TOOL | {"input_schema": {"enum": list(range(30_000))}}]},
        "tools[0].input_schema",
    ),
    "tool choice": ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
    "choice of nothing": ({"tool_choice": {"type": "any"}}, "tool_choice"),
    "choice without a name": ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    "format": ({"output_config": {"format": {"type": "text"}}}, "output_config.format.type"),
    "format without a schema": (
        {"output_config": {"format": {"type": "json_schema"}}},
        "output_config.format.schema",
    ),
    "stop sequence": ({"stop_sequences": [""]}, "stop_sequences"),
    "stop sequences": ({"stop_sequences": list("abcde")}, "stop_sequences"),
    "temperature": ({"temperature": 3}, "temperature"),
    "field of another server": ({"guided_regex": "a"}, "guided_regex"),
}


@pytest.mark.parametrize("name", BAD)
def test_error_names_the_field_of_the_request(name: str) -> None:
    more, param = BAD[name]
    body = {"model": "m", "max_tokens": 8, "messages": [user("Hi")], **more}
    with pytest.raises(InvalidRequestError) as caught:
        decode_messages_request(json.dumps(body).encode(), reading(strict=False))
    assert caught.value.param == param
    assert param.split(".")[0].split("[")[0] in caught.value.message


def test_count_request_needs_no_limit_and_reads_the_same_conversation() -> None:
    body = {"model": "m", "messages": [user("Hi")], "system": "s", "tools": []}
    counted = decode_count_request(json.dumps(body).encode(), reading())
    assert written(counted.request) == written(decoded(user("Hi"), system="s", tools=[]).request)
