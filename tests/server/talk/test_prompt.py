"""The loop of `serval chat` at a terminal, and its one-shot form."""

import io
from collections.abc import Iterator
from typing import Any

import pytest

from serval.cli import main
from serval.talk import prompt
from serval.talk.prompt import TerminalDisplay, printable, talk


class Script:
    """Stand-in for a conversation: records questions, and fails on `fail` and `stop`."""

    model = "demo"

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.tools: list[Any] = []
        self.usage = None

    def ask(self, question: str) -> None:
        self.questions.append(question)
        if question == "fail":
            raise prompt.ServalError("the server answered 503")
        if question == "stop":
            raise KeyboardInterrupt


@pytest.fixture
def script() -> Script:
    return Script()


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """Have `input` return the lines, raise the exceptions, then end."""
    answers: Iterator[Any] = iter([*lines, EOFError])

    def read(_: str = "") -> str:
        line = next(answers)
        if isinstance(line, type):
            raise line
        return str(line)

    monkeypatch.setattr("builtins.input", read)


def test_talk_goes_on_after_errors_and_ctrl_c(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "Hi", "", KeyboardInterrupt, "fail", "stop", "/nothing", "/tokens", "bye")
    assert talk(script) == 0  # type: ignore[arg-type]
    assert script.questions == ["Hi", "fail", "stop", "bye"]
    out, errors = capsys.readouterr()
    assert "no answer yet" in out
    assert "the server answered 503" in errors
    assert "there is no /nothing" in errors


def test_printable_keeps_text_and_replaces_controls() -> None:
    """An answer cannot move the cursor, clear the screen or set the title."""
    assert printable("Kraków\t👩‍🚀\n") == "Kraków\t👩‍🚀\n"
    assert printable("\x1b[2J\x9b1m\r\x07\x7f") == "\ufffd[2J\ufffd1m\ufffd\ufffd\ufffd"


def test_terminal_display_prints_only_the_answer_to_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = TerminalDisplay()
    display.reasoning("thinking")
    display.call("add", '{"a": [1]}')
    display.result("[bold]4[/]")
    display.end("tool_calls")
    display.text("4")
    display.end("length")
    out, errors = capsys.readouterr()
    assert out == "4\n"
    assert 'thinking→ add({"a": [1]})' in errors
    assert "← [bold]4[/]" in errors
    assert "cut at the limit" in errors


@pytest.mark.parametrize(("arguments", "stdin"), [(["--ask", "Hi"], ""), ([], "Hi")])
def test_chat_command_asks_once(
    script: Script, monkeypatch: pytest.MonkeyPatch, arguments: list[str], stdin: str
) -> None:
    opened: list[Any] = []

    def open_conversation(url: str, **options: Any) -> Script:
        opened.append((url, options))
        return script

    monkeypatch.setattr(prompt, "open_conversation", open_conversation)
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    assert main(["chat", "--system", "Be short.", *arguments]) == 0
    assert script.questions == ["Hi"]
    assert opened == [
        ("http://127.0.0.1:8000/v1", {"model": None, "system": "Be short.", "tools_file": None})
    ]


def test_chat_command_without_a_key_says_which_variable_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SERVAL_API_KEY", raising=False)
    assert main(["chat", "--ask", "Hi"]) == 1
    assert "export SERVAL_API_KEY=sk-..." in capsys.readouterr().err
