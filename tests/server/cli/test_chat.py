"""`serval chat render`."""

import io
import json

import pytest

from serval.cli import main
from serval_testkit.gateway import DEMO_CHECKPOINT


def render(
    lines: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    code = main(["chat", "render", "--model", str(DEMO_CHECKPOINT)])
    out, errors = capsys.readouterr()
    return code, out, errors


def test_renders_one_conversation_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    lines = [
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": "北京"}], "tools": [tool]},
        {"messages": [{"role": "user", "content": "北京"}], "tools": [tool], "tool_choice": "none"},
    ]
    code, out, _ = render("\n".join(map(json.dumps, lines)) + "\n\n", monkeypatch, capsys)
    assert code == 0
    first, with_tool, without = [json.loads(line) for line in out.splitlines()]
    assert first["text"] == "<longcat_user>Hi<longcat_assistant>"
    assert all(isinstance(token, int) for token in first["input_ids"])
    assert "### Tool name: f\n" in with_tool["text"]
    assert without["text"] == "<longcat_user>北京<longcat_assistant>"


def test_render_without_a_model_is_for_the_demo_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.dumps({"messages": [{"role": "user", "content": "Hi"}]})
    _, expected, _ = render(line, monkeypatch, capsys)
    monkeypatch.setattr("sys.stdin", io.StringIO(line))
    assert main(["chat", "render"]) == 0
    assert capsys.readouterr().out == expected


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1.50}'}}


def test_render_accepts_conversation_that_ends_with_calls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [CALL]}]
    code, out, _ = render(json.dumps({"messages": messages}), monkeypatch, capsys)
    assert code == 0
    assert "<longcat_arg_value>1.50</longcat_arg_value>" in json.loads(out)["text"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2 of the input is not JSON"),
        ("[]", 'line 2 of the input is not of the form {"messages": [...]}'),
        ('{"messages": []}', "'messages' is empty"),
        ('{"messages": [{"role": "nobody"}]}', "messages[0].role is 'nobody'"),
        ('{"messages": [{"role": "user", "content": 1}]}', "messages[0].content"),
        ('{"messages": [{"role": "tool", "tool_call_id": "c", "content": ""}]}', "answers no call"),
        ('{"messages": [{"role": "user", "content": ""}], "tools": [{"name": "f"}]}', "tools[0].type"),
    ],
)
def test_render_refuses_what_the_gateway_refuses(
    line: str, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, errors = render(f"\n{line}\n", monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert "line 2" in errors
    assert complaint in errors


@pytest.mark.parametrize("line", ["{", "[]", '{"messages": [{"role": "nobody"}]}'])
def test_a_line_that_cannot_be_rendered_is_named(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "Hi"}]})
    code, out, errors = render(f"{good}\n{line}\n", monkeypatch, capsys)
    assert code == 2
    assert len(out.splitlines()) == 1
    assert "line 2" in errors
