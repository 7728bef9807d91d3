"""The demo checkpoint's chat template renders LongCat-Flash-Lite's format byte for byte."""

import json
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from serval_sglang.demo import checkpoint_directory

Json = dict[str, Any]

NOTE = (
    "**Note**: For each function call, output the function name and arguments "
    "within the following XML format:\n"
    "<longcat_tool_call>{function-name}\n"
    "<longcat_arg_key>{arg-key-1}</longcat_arg_key>\n<longcat_arg_value>{arg-value-1}</longcat_arg_value>\n"
    "<longcat_arg_key>{arg-key-2}</longcat_arg_key>\n<longcat_arg_value>{arg-value-2}</longcat_arg_value>\n"
    "...\n</longcat_tool_call>\n</longcat_tool_declare>"
)
HEAD = "<longcat_tool_declare>\n# Tools\nYou have access to the following tools:\n\n"
WEATHER_PARAMETERS: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def render(messages: list[Json], *, add_generation_prompt: bool = True, **variables: Any) -> str:
    """Render as transformers does: sandboxed, with trimmed blocks and its own `tojson`."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _tojson
    text = (checkpoint_directory() / "chat_template.jinja").read_text("utf-8")
    return environment.from_string(text).render(
        messages=messages, add_generation_prompt=add_generation_prompt, **variables
    )


def tool(name: str, description: str = "Get weather", parameters: Json = WEATHER_PARAMETERS) -> Json:
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def call(name: str, **arguments: Any) -> Json:
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}


def rendered_call(name: str, **arguments: str) -> str:
    pairs = "".join(
        f"<longcat_arg_key>{key}</longcat_arg_key>\n<longcat_arg_value>{value}</longcat_arg_value>\n"
        for key, value in arguments.items()
    )
    return f"<longcat_tool_call>{name}\n{pairs}</longcat_tool_call>\n"


SYSTEM = {"role": "system", "content": "You are helpful."}
HI = {"role": "user", "content": "Hi"}


def test_template_renders_user_turn() -> None:
    assert render([HI]) == "<longcat_user>Hi<longcat_assistant>"


def test_template_puts_system_turn_first_without_separator() -> None:
    assert render([SYSTEM, HI]) == "<longcat_system>You are helpful.<longcat_user>Hi<longcat_assistant>"


def test_template_closes_only_assistant_turns() -> None:
    messages = [SYSTEM, HI, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Bye"}]
    assert render(messages) == (
        "<longcat_system>You are helpful.<longcat_user>Hi<longcat_assistant>Hello!</longcat_s>"
        "<longcat_user>Bye<longcat_assistant>"
    )


def test_template_declares_tools_before_system_turn() -> None:
    messages = [SYSTEM, {"role": "user", "content": "Weather?"}]
    schema = (
        '{"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, '
        '"required": ["city"]}'
    )
    assert render(messages, tools=[tool("get_weather")]) == (
        HEAD + "## Tool namespace: function\n\n"
        f"### Tool name: get_weather\nDescription: Get weather\n\nInputSchema: {schema}\n\n"
        + NOTE
        + "<longcat_system>You are helpful.<longcat_user>Weather?<longcat_assistant>"
    )


def test_template_names_namespace_once_per_tool_type() -> None:
    text = render([HI], tools=[tool("a"), {"type": "code_interpreter"}, tool("b", "Grüße", {})])
    assert text.count("## Tool namespace: function\n\n") == 1
    assert "## Tool namespace: code_interpreter\n\n### Tool name: code_interpreter_preview\n" in text
    assert "### Tool name: b\nDescription: Grüße\n\nInputSchema: {}\n\n**Note**" in text


def test_template_links_calls_and_results_by_order() -> None:
    calls = [call("get_weather", city="北京", days=3), call("get_weather", city="Paris")]
    messages = [
        {"role": "user", "content": "W?"},
        {"role": "assistant", "content": "Let me check.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "x", "content": '{"t":1}'},
        {"role": "tool", "tool_call_id": "y", "content": '{"t":2}'},
    ]
    assert render(messages) == (
        "<longcat_user>W?<longcat_assistant>Let me check."
        + rendered_call("get_weather", city="北京", days="3")
        + rendered_call("get_weather", city="Paris")
        + '</longcat_s><longcat_user><longcat_tool_response>{"t":1}</longcat_tool_response>'
        '<longcat_tool_response>{"t":2}</longcat_tool_response><longcat_assistant>'
    )


def test_template_renders_call_without_arguments_or_content() -> None:
    messages = [
        {"role": "user", "content": "now?"},
        {"role": "assistant", "content": None, "tool_calls": [call("now")]},
        {"role": "tool", "content": "12:00"},
    ]
    assert render(messages) == (
        "<longcat_user>now?<longcat_assistant><longcat_tool_call>now\n</longcat_tool_call>\n</longcat_s>"
        "<longcat_user><longcat_tool_response>12:00</longcat_tool_response><longcat_assistant>"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a\nb ", " a\nb "),
        (1.5, "1.5"),
        (True, "true"),
        (None, "null"),
        ({"k": "v é"}, '{"k": "v é"}'),
        ([1, "2"], '[1, "2"]'),
        ('say "hi" <b>&</b>', 'say "hi" <b>&</b>'),
        ("007", "007"),
        ("", ""),
    ],
)
def test_template_keeps_strings_raw_and_writes_other_values_as_json(value: object, text: str) -> None:
    messages = [HI, {"role": "assistant", "tool_calls": [call("f", v=value)]}]
    assert rendered_call("f", v=text) in render(messages)


REASONED = {"role": "assistant", "content": "c", "reasoning_content": "think", "tool_calls": [call("f")]}
RESULT = {"role": "tool", "content": "r"}
THOUGHT = "<longcat_assistant>\n<longcat_think>\nthink\n</longcat_think>\nc<longcat_tool_call>f\n"


def test_template_shows_reasoning_within_running_tool_loop() -> None:
    text = render([HI, REASONED, RESULT], tools=[tool("f")], enable_thinking=True)
    assert THOUGHT in text


@pytest.mark.parametrize(
    ("messages", "variables"),
    [
        ([HI, REASONED, RESULT], {"enable_thinking": True}),
        ([HI, REASONED, RESULT], {"enable_thinking": True, "tools": [tool("f")], "tool_choice": "none"}),
        ([HI, REASONED, RESULT], {"enable_thinking": False, "tools": [tool("f")]}),
        ([HI, REASONED, RESULT], {"tools": [tool("f")]}),
        (
            [HI, REASONED, RESULT, {"role": "assistant", "content": "done"}, HI],
            {"enable_thinking": True, "tools": [tool("f")]},
        ),
    ],
    ids=["no tools", "tools switched off", "thinking off", "thinking unset", "an earlier query"],
)
def test_template_omits_reasoning_otherwise(messages: list[Json], variables: Json) -> None:
    assert "longcat_think" not in render(messages, **variables)


def test_template_omits_declaration_for_tool_choice_none() -> None:
    assert render([HI], tools=[tool("f")], tool_choice="none") == render([HI])


def test_template_puts_files_before_text() -> None:
    messages = [{"role": "user", "content": "read", "files": [{"name": "a.txt"}]}]
    assert render(messages) == (
        '<longcat_user><longcat_files>\n[\n  {\n    "name": "a.txt"\n  }\n]\n</longcat_files>read'
        "<longcat_assistant>"
    )


def test_template_drops_other_roles_and_adds_no_prompt_by_default() -> None:
    messages = [{"role": "developer", "content": "x"}, HI]
    assert render(messages, add_generation_prompt=False) == "<longcat_user>Hi"


def test_template_opens_user_turn_for_leading_result() -> None:
    assert render([RESULT]).startswith("<longcat_user><longcat_tool_response>r</longcat_tool_response>")
