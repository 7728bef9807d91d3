"""`serval chat render`."""

import io
import json
import re
from pathlib import Path
from typing import Any

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


def diff(folder: Path, first: Any, second: Any) -> int:
    paths = [folder / name for name in ("a.json", "b.json")]
    for path, body in zip(paths, (first, second), strict=True):
        path.write_text(body if isinstance(body, str) else json.dumps(body))
    return main(["chat", "render", "--model", str(DEMO_CHECKPOINT), "--diff", *map(str, paths)])


def body(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], **fields}


def test_diff_names_the_text_at_which_prompts_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff(tmp_path, body("Today is Monday.", "Hi"), body("Today is Tuesday.", "Hi", max_tokens=3)) == 0
    found, place, *shown = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[1-9]\d* of \d+ tokens of .*/b.json are found after .*/a.json", found)
    assert place == "they part at messages[0].content, character 9:"
    assert [line.split("<longcat_user>")[1] for line in shown] == ["Today is Monday.", "Today is Tuesday."]


def test_diff_of_equal_prompts_names_no_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert diff(tmp_path, body("Hi"), {"messages": [parts]}) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("3 of 3 tokens of ")


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ("{", "b.json is not JSON"),
        ("[]", "b.json does not hold a JSON object"),
        ('{"messages": [{"role": "user"}]}', "b.json cannot be rendered: messages[0] has role 'user'"),
    ],
)
def test_diff_names_the_file_that_cannot_be_rendered(
    second: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff(tmp_path, body("Hi"), second) == 1
    assert complaint in capsys.readouterr().err


def test_diff_reads_requests_of_the_responses_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def turn(output: str) -> dict[str, Any]:
        called = {"type": "function_call", "call_id": "c", "name": "run", "arguments": '{"cmd": "ls"}'}
        result = {"type": "function_call_output", "call_id": "c", "output": output}
        return {"instructions": "Be brief.", "input": [{"role": "user", "content": "Hi"}, called, result]}

    assert diff(tmp_path, turn("a.py b.py"), turn("a.py c.py")) == 0
    place = capsys.readouterr().out.splitlines()[1]
    assert place == "they part at input[2].output, character 5:"


def test_diff_reads_requests_of_the_messages_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    used = {"type": "tool_use", "id": "t", "name": "Edit", "input": {"path": "a.py"}}
    changed = {**used, "input": {"replace_all": False, "path": "a.py"}}

    def turn(call: dict[str, Any]) -> dict[str, Any]:
        messages = [
            {"role": "user", "content": "Edit a.py."},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "done"}]},
        ]
        return {"max_tokens": 9, "system": [{"type": "text", "text": "Be brief."}], "messages": messages}

    assert diff(tmp_path, turn(used), turn(changed)) == 0
    place = capsys.readouterr().out.splitlines()[1]
    assert place == "they part at messages[1].content[0].input.replace_all, character 0:"
