"""Items of the Responses API as messages of Chat Completions."""

from typing import Any

import msgspec
import pytest

from serval.errors import InvalidRequestError
from serval.wire.chat_request import Message, Tool
from serval.wire.responses.conversation import conversation_messages
from serval.wire.responses.items import decode_items
from serval.wire.responses.tools import LoadedTools, ToolSet

USER = {"role": "user", "content": "Hi"}


def declare(tool: Tool) -> str:
    assert tool.function is not None
    return f"<{tool.function.name}>"


def messages(
    *items: dict[str, Any],
    tools: ToolSet | None = None,
    instructions: str | None = None,
    policy: Any = "refuse_new",
) -> list[Message]:
    raw = [msgspec.Raw(msgspec.json.encode(item)) for item in items]
    return conversation_messages(
        decode_items(raw, "input"),
        instructions=instructions,
        non_text_parts=policy,
        loaded=LoadedTools(tools or ToolSet()),
        declare=declare,
    )


def call(call_id: str, name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}", **more}


def output(call_id: str, text: Any = "ok") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def shape(made: list[Message]) -> list[Any]:
    """Return roles, contents and ids of calls."""
    return [
        (message.role, message.content, *(call.id for call in message.tool_calls or ()))
        if message.role != "tool"
        else ("tool", message.tool_call_id, message.content)
        for message in made
    ]


def test_messages_are_taken_with_and_without_type_and_as_text_or_parts() -> None:
    made = messages(
        USER,
        {"type": "message", "role": "assistant", "content": "Hello", "id": "msg_1", "status": "completed"},
        {"role": "developer", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "b"}, {"type": "text", "text": "c"}]},
        instructions="Be brief.",
    )
    assert [message.role for message in made] == ["system", "user", "assistant", "developer", "user"]
    assert (made[0].content, made[1].content, made[2].content) == ("Be brief.", "Hi", "Hello")
    assert isinstance(made[4].content, list)
    assert [part.text for part in made[4].content] == ["b", "c"]


def test_adjacent_items_of_the_model_are_one_turn() -> None:
    made = messages(
        USER, said("I look."), call("1"), call("2"), output("1", "a"), output("2", "b"), said("Done.")
    )
    assert shape(made) == [
        ("user", "Hi"),
        ("assistant", "I look.", "1", "2"),
        ("tool", "1", "a"),
        ("tool", "2", "b"),
        ("assistant", "Done."),
    ]


def test_text_after_a_call_comes_before_the_calls_of_its_turn() -> None:
    assert shape(messages(USER, call("1"), said("Wait."), output("1"))) == [
        ("user", "Hi"),
        ("assistant", "Wait.", "1"),
        ("tool", "1", "ok"),
    ]


def test_call_after_a_result_is_a_new_turn() -> None:
    assert shape(messages(USER, call("1"), output("1"), call("2"), output("2"))) == [
        ("user", "Hi"),
        ("assistant", None, "1"),
        ("tool", "1", "ok"),
        ("assistant", None, "2"),
        ("tool", "2", "ok"),
    ]


def test_results_have_the_order_of_their_calls_and_touch_them() -> None:
    made = messages(
        USER, call("1"), call("2"), output("2", "b"), {"role": "user", "content": "?"}, output("1", "a")
    )
    assert shape(made) == [
        ("user", "Hi"),
        ("assistant", None, "1", "2"),
        ("tool", "1", "a"),
        ("tool", "2", "b"),
        ("user", "?"),
    ]


def test_call_id_may_be_used_again_after_its_result() -> None:
    made = messages(call("1"), output("1", "a"), call("1"), output("1", "b"))
    assert [message.content for message in made if message.role == "tool"] == ["a", "b"]


def test_cut_call_needs_no_result() -> None:
    made = messages(
        USER, call("1", status="incomplete", arguments='{"a'), {"role": "user", "content": "Go on"}
    )
    assert shape(made) == [("user", "Hi"), ("assistant", None, "1"), ("user", "Go on")]


def test_custom_call_has_one_text_argument() -> None:
    custom = {"type": "custom_tool_call", "call_id": "1", "name": "apply_patch", "input": 'a "b"\n'}
    (turn, _) = messages(custom, {"type": "custom_tool_call_output", "call_id": "1", "output": "ok"})
    assert turn.tool_calls is not None
    assert turn.tool_calls[0].function.name == "apply_patch"
    assert turn.tool_calls[0].function.arguments == {"input": 'a "b"\n'}


def test_call_in_a_namespace_has_the_joined_name() -> None:
    (turn, _) = messages(call("1", "close", namespace="agents"), output("1"))
    assert turn.tool_calls is not None
    assert turn.tool_calls[0].function.name == "agents.close"


def test_local_shell_call_has_the_arguments_that_the_model_wrote() -> None:
    action = {"type": "exec", "command": ["ls", "-l"], "timeout_ms": 5, "env": {}, "user": None}
    shell = {"type": "local_shell_call", "id": "lsh_1", "call_id": "1", "action": action}
    for result in (output("1"), {"type": "local_shell_call_output", "id": "lsh_1", "output": "ok"}):
        (turn, reply) = messages(shell, result)
        assert turn.tool_calls is not None
        assert turn.tool_calls[0].function.name == "local_shell"
        assert turn.tool_calls[0].function.arguments == {"command": ["ls", "-l"], "timeout_ms": 5}
        assert (reply.tool_call_id, reply.content) == ("1", "ok")


def test_loaded_tools_are_declared_in_the_result_of_their_search() -> None:
    tools = ToolSet()
    found = [
        {"type": "function", "name": "f", "parameters": {"type": "object"}},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "g"}]},
    ]
    made = messages(
        {"type": "tool_search_call", "call_id": "1", "execution": "client", "arguments": {"query": "x"}},
        {"type": "tool_search_output", "call_id": "1", "execution": "client", "tools": found},
        tools=tools,
    )
    assert made[0].tool_calls is not None
    assert made[0].tool_calls[0].function.arguments == '{"query":"x"}'
    assert made[1].content == "<f>\n\n<n.g>"
    assert [tool.function.name for tool in tools.deferred if tool.function] == ["f", "n.g"]
    assert (tools.called["n.g"].name, tools.called["n.g"].namespace) == ("g", "n")
    assert tools.declared == []


def test_search_that_another_server_ran_is_left_out() -> None:
    made = messages(
        USER,
        {"type": "tool_search_call", "call_id": None, "execution": "server", "arguments": {}},
        {"type": "tool_search_output", "call_id": None, "execution": "server", "tools": []},
    )
    assert shape(made) == [("user", "Hi")]


@pytest.mark.parametrize("kind", ["web_search_call", "mcp_list_tools", "file_search_call", "of_the_future"])
def test_item_of_a_hosted_tool_is_left_out(kind: str) -> None:
    assert shape(messages(USER, {"type": kind, "id": "x", "action": 5, "content": {}})) == [("user", "Hi")]


def test_message_of_another_agent_is_a_users() -> None:
    item = {"type": "agent_message", "author": "a", "content": [{"type": "input_text", "text": "b"}]}
    (made,) = messages(item)
    assert made.role == "user"


def test_reasoning_belongs_to_the_turn_that_follows() -> None:
    thought = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "s"}],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
        "encrypted_content": "opaque",
    }
    made = messages(USER, thought, call("1"), output("1"), thought)
    assert [message.reasoning_content for message in made] == [None, "Hm.", None]


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


def test_image_of_the_history_becomes_a_text() -> None:
    made = messages({"role": "user", "content": [IMAGE]}, said("Nice."), call("1"), output("1", [IMAGE]))
    assert isinstance(made[0].content, list)
    assert isinstance(made[2].content, list)
    assert made[0].content[0].text == made[2].content[0].text == "[image omitted: this model reads text only]"


def test_newest_image_of_the_user_is_refused_unless_all_are_omitted() -> None:
    item = {"role": "user", "content": [{"type": "input_text", "text": "See"}, IMAGE]}
    with pytest.raises(InvalidRequestError) as caught:
        messages(USER, item)
    assert caught.value.param == "input[1].content[1].type"
    assert messages(USER, item, policy="omit")


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([output("1")], "input[0].call_id"),
        ([call("1")], "input[0]"),
        ([call("1"), call("1"), output("1")], "input[1].call_id"),
        ([output("1"), call("1")], "input[0].call_id"),
        ([call("1"), output("1"), output("1")], "input[2].call_id"),
        ([{"role": "critic", "content": "a"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"type": "message", "content": "a"}], "input[0].role"),
        ([{"content": "a"}], "input[0]"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"role": "user", "content": 5}], "input[0].content"),
        ([{"role": "user", "content": [{"type": "input_text", "text": 5}]}], "input[0].content[0].text"),
        ([{"type": "function_call", "name": "f", "arguments": "{}"}], "input[0].call_id"),
        ([{"type": "function_call", "call_id": "1", "name": "f", "arguments": 5}], "input[0].arguments"),
        ([call("1"), output("1", 5)], "input[1].output"),
        ([call("1"), output("1", [{"type": "input_text", "text": 5}])], "input[1].output[0].text"),
        ([call("1"), output("1", [{"type": "odd"}])], "input[1].output[0].type"),
        ([{"type": "local_shell_call_output", "output": "a"}], "input[0].call_id"),
        ([{"type": "item_reference", "id": "msg_1"}], "input[0].type"),
        ([{"type": "compaction", "encrypted_content": "a"}], "input[0].type"),
        (
            [
                {"type": "tool_search_call", "call_id": "1", "arguments": {}},
                {
                    "type": "tool_search_output",
                    "call_id": "1",
                    "tools": [{"type": "function", "name": "a b"}],
                },
            ],
            "input[1].tools[0].name",
        ),
    ],
)
def test_error_names_the_field_in_the_words_of_the_request(items: list[Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        messages(*items)
    assert caught.value.param == param


def test_deeply_many_arguments_are_refused_by_the_name_of_the_input() -> None:
    many = "[" + "[]," * 70_000 + "[]]"
    with pytest.raises(InvalidRequestError) as caught:
        messages(call("1", arguments=many), output("1"))
    assert (caught.value.param, caught.value.code) == ("input", "too_many_values")
