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


@pytest.mark.parametrize("line", ["{", "[]", '{"messages": [{"role": "nobody"}]}'])
def test_a_line_that_cannot_be_rendered_is_named(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "Hi"}]})
    code, out, errors = render(f"{good}\n{line}\n", monkeypatch, capsys)
    assert code == 1
    assert len(out.splitlines()) == 1
    assert "line 2" in errors
