"""`serval tools parse`: JSON Lines in, assistant messages or deltas out."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import CharDelimiterSplit

from serval.cli import main
from serval.cli.tools import EXAMPLE_LINE
from serval_testkit.longcat_text import call, pair, tool

WEATHER = tool("get_weather", city={"type": "string"})
PARIS = "Let me see." + call("get_weather", pair("city", "Paris"))


class ParseRun:
    def __init__(self, exit_code: int, out: str, err: str) -> None:
        self.exit_code, self.err = exit_code, err
        self.lines = [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*lines: Any, options: tuple[str, ...] = ()) -> ParseRun:
        encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(encoded))))
        exit_code = main(["tools", "parse", *options])
        captured = capsys.readouterr()
        return ParseRun(exit_code, captured.out, captured.err)

    return run


def test_a_message_a_line(parse: Any) -> None:
    result = parse({"text": PARIS, "tools": [WEATHER]}, {"text": "plain 北京"})
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert result.exit_code == 0
    assert result.lines == [
        {
            "message": {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
            },
            "finish_reason": "tool_calls",
        },
        {"message": {"role": "assistant", "content": "plain 北京"}, "finish_reason": "stop"},
    ]


@pytest.mark.parametrize("chunk_size", [0, 1, 5, None])
def test_the_message_does_not_depend_on_the_chunk_size(parse: Any, chunk_size: int | None) -> None:
    whole = parse({"text": PARIS, "tools": [WEATHER]}).lines
    assert parse({"text": PARIS, "tools": [WEATHER], "chunk_size": chunk_size}).lines == whole


def test_a_length_stop_stays_a_length_stop(parse: Any) -> None:
    text = PARIS[: PARIS.index("ris") + 1]
    (line,) = parse({"text": text, "tools": [WEATHER], "finish_reason": "length"}).lines
    assert line["finish_reason"] == "length"
    assert line["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Par'


def test_reasoning_has_its_own_field(parse: Any) -> None:
    (line,) = parse({"text": "hm\n</longcat_think>\nyes", "thinking": True}).lines
    assert line["message"] == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}


def test_the_end_of_turn_token_is_no_content(parse: Any) -> None:
    (line,) = parse({"text": "yes</longcat_s>"}).lines
    assert line["message"]["content"] == "yes"


def test_stream_prints_the_deltas_and_then_the_finish_reason(parse: Any) -> None:
    lines = parse({"text": PARIS, "tools": [WEATHER], "chunk_size": 4}, options=("--stream",)).lines
    calls = [entry for line in lines for entry in line["delta"].get("tool_calls", [])]
    assert "".join(line["delta"].get("content", "") for line in lines) == "Let me see."
    assert calls[0] == {
        "index": 0,
        "id": "call_0",
        "type": "function",
        "function": {"name": "get_weather", "arguments": ""},
    }
    assert "".join(entry["function"]["arguments"] for entry in calls) == '{"city": "Paris"}'
    assert len(calls) > 3
    assert [line["finish_reason"] for line in lines] == [None] * (len(lines) - 1) + ["tool_calls"]


def test_chunks_can_be_the_tokens_of_a_model(parse: Any, tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = CharDelimiterSplit("-")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    request = {"text": "one-two-three", "chunk_size": "token"}
    lines = parse(request, options=("--stream", "--model", str(tmp_path))).lines
    assert [line["delta"].get("content") for line in lines] == ["one", "-two", "-three", None]


def test_a_call_without_tools_stays_text_and_says_why(parse: Any) -> None:
    result = parse({"text": "plain"}, {"text": PARIS}, {"text": PARIS, "tools": [WEATHER]})
    assert result.exit_code == 0
    assert result.lines[1]["message"]["content"] == PARIS
    assert result.err == (
        "serval tools: warning: line 2: without `tools`, <longcat_tool_call> is text like any other\n"
    )


def test_the_line_that_the_help_shows_is_a_call(parse: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = parse(EXAMPLE_LINE.encode()).lines
    assert line["message"]["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}
    with pytest.raises(SystemExit):
        main(["tools", "parse", "--help"])
    assert f"  {EXAMPLE_LINE}\n" in capsys.readouterr().out


def test_a_file_can_be_named(parse: Any, tmp_path: Path) -> None:
    path = tmp_path / "outputs.jsonl"
    path.write_text(json.dumps({"text": "from a file"}))
    assert parse(options=(str(path),)).lines[0]["message"]["content"] == "from a file"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ([], "list given"),
        ({}, "no text"),
        ({"text": 1}, "text is 1"),
        ({"text": "", "tools": {}}, "tools is {}"),
        ({"text": "", "tools": ["f"]}, "tools holds 'f'"),
        ({"text": "", "chunk_size": -1}, "chunk_size is -1"),
        ({"text": "", "chunk_size": True}, "chunk_size is True"),
        ({"text": "", "chunk_size": "word"}, "chunk_size is 'word'"),
        ({"text": "", "chunk_size": "token"}, "needs --model"),
        ({"text": "", "finish_reason": 1}, "finish_reason is 1"),
        ({"text": "", "thinking": "no"}, "thinking is 'no'"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(parse: Any, line: Any, complaint: str) -> None:
    result = parse({"text": "first"}, b"", line, {"text": "never read"})
    assert result.exit_code == 2
    assert "line 3: " in result.err
    assert complaint in result.err
    assert [output["message"]["content"] for output in result.lines] == ["first"]


def test_a_missing_file_and_a_missing_tokenizer_are_wrong_use(parse: Any, tmp_path: Path) -> None:
    assert parse(options=(str(tmp_path / "none.jsonl"),)).exit_code == 2
    result = parse({"text": "", "chunk_size": "token"}, options=("--model", str(tmp_path)))
    assert result.exit_code == 2
    assert "tokenizer.json" in result.err
