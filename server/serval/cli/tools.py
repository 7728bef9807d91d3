"""`serval tools parse`: parse the text of a model as the gateway does."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serval.errors import InputLineError
from serval.grammar.dialects.longcat import LONGCAT
from serval.tools.events import ArgumentsDelta, ContentDelta, Event, ReasoningDelta, ToolCallStart
from serval.tools.markers import TOOL_CALL_OPEN
from serval.tools.message import AssistantMessage, assemble

_PARSE_HELP = """\
Reads JSON Lines, one model output a line, and prints one OpenAI assistant message a line. Starts no engine.

  text           what the model wrote; a trailing </longcat_s> is dropped, as the engine does
  tools          OpenAI tool objects (default: none, and calls stay text)
  chunk_size     feed the parser pieces of so many characters (default: 0, all at once), or "token": one token
                 of --model's tokenizer at a time. The message never depends on it, the deltas of --stream do
  finish_reason  what ended the output (default: "stop")
  thinking       whether the prompt had opened the think block (default: false)

Other keys are ignored. A line that cannot be read ends the run: exit code 2 and a message with its number.

Calls may have the form of LongCat-Flash-Lite, a name and pairs of key and value, or be JSON.

example:
  serval tools parse --stream <<'EOF'
  {example}
  EOF
"""
# One line of input, which the help shows.
EXAMPLE_LINE = json.dumps(
    {
        "text": "<longcat_tool_call>now\n</longcat_tool_call>",
        "tools": [{"type": "function", "function": {"name": "now"}}],
    }
)

ChunkSize = int | Literal["token"]
Split = Callable[[str, ChunkSize], Iterable[str]]


@dataclass(frozen=True)
class ParseRequest:
    """One line of the input."""

    text: str
    tools: list[Mapping[str, Any]]
    chunk_size: ChunkSize
    finish_reason: str
    thinking: bool


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    parse = actions.add_parser(
        "parse",
        help="read tool calls, content and reasoning out of model text",
        description=_PARSE_HELP.format(example=EXAMPLE_LINE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("file", nargs="?", type=Path, help="JSON Lines to read (default: the standard input)")
    parse.add_argument("--stream", action="store_true", help="print the deltas of a streamed reply instead")
    parse.add_argument(
        "--model", type=Path, help='folder of a checkpoint; its tokenizer.json is read for chunk_size "token"'
    )


def run(args: argparse.Namespace) -> int:
    show = _deltas if args.stream else _message
    split = _splitter(args.model)
    try:
        source = args.file.open("rb") if args.file else contextlib.nullcontext(sys.stdin.buffer)
    except OSError as error:
        print(f"serval tools parse: error: cannot read {str(args.file)!r}: {error.strerror}", file=sys.stderr)
        return 2
    with source as lines:
        for line_number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                request = read_request(line)
                outputs = list(show(request, split(request.text, request.chunk_size)))
            except InputLineError as error:
                raise InputLineError(f"line {line_number}: {error}") from error
            for output in outputs:
                print(json.dumps(output, ensure_ascii=False), flush=True)
            if TOOL_CALL_OPEN in request.text and not request.tools:
                hint = f"line {line_number}: without `tools`, {TOOL_CALL_OPEN} is text like any other"
                print(f"serval tools: warning: {hint}", file=sys.stderr, flush=True)
    return 0


def read_request(line: bytes) -> ParseRequest:
    """Read one line of the input. Raises InputLineError, which states the mistake and the allowed values."""
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputLineError(f"not JSON ({error}); each line is one JSON object") from error
    if not isinstance(given, dict):
        raise InputLineError(f"{type(given).__name__} given; each line is one JSON object")
    tools = _field(given, "tools", list, default=None) or []
    for tool in tools:
        if not isinstance(tool, dict):
            raise InputLineError(f"tools holds {tool!r:.80}; each tool is an object as in OpenAI's API")
    chunk_size = given.get("chunk_size")
    if chunk_size != "token":
        chunk_size = _field(given, "chunk_size", int, default=0)
        if chunk_size < 0:
            raise InputLineError(f'chunk_size is {chunk_size}; use 0 (all at once), a size, or "token"')
    if "text" not in given:
        raise InputLineError("no text; give the model's output as a string")
    return ParseRequest(
        text=_field(given, "text", str, default="").removesuffix(LONGCAT.reply.end_of_turn),
        tools=tools,
        chunk_size=chunk_size,
        finish_reason=_field(given, "finish_reason", str, default="stop"),
        thinking=_field(given, "thinking", bool, default=False),
    )


def _field(given: Mapping[str, Any], name: str, kind: type, *, default: Any) -> Any:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputLineError(f"{name} is {value!r:.80}; it must be of type {kind.__name__}")
    return value


def _splitter(model: Path | None) -> Split:
    """Return a function that cuts text. The tokenizer is read when the first line asks for tokens."""
    token_ends: Callable[[str], Iterable[int]] | None = None

    def split(text: str, chunk_size: ChunkSize) -> Iterator[str]:
        nonlocal token_ends
        if chunk_size == "token":
            token_ends = token_ends or _token_ends(model)
            ends = token_ends(text)
        else:
            ends = range(chunk_size, len(text), chunk_size) if chunk_size else ()
        start = 0
        for end in (*ends, len(text)):
            yield text[start:end]
            start = max(start, end)

    return split


def _token_ends(model: Path | None) -> Callable[[str], Iterable[int]]:
    if model is None:
        raise InputLineError(
            'chunk_size "token" needs --model FOLDER, whose tokenizer.json says what a token is'
        )
    from tokenizers import Tokenizer

    path = model / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise InputLineError(f"cannot read {str(path)!r}: {error}") from error
    return lambda text: [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]


def _message(request: ParseRequest, pieces: Iterable[str]) -> Iterator[dict[str, Any]]:
    message = assemble(_events(request, pieces))
    yield {
        "message": _openai_message(message),
        "finish_reason": _finish_reason(request, has_calls=bool(message.calls)),
    }


def _deltas(request: ParseRequest, pieces: Iterable[str]) -> Iterator[dict[str, Any]]:
    has_calls = False
    for event in _events(request, pieces):
        has_calls = has_calls or isinstance(event, ToolCallStart)
        yield {"delta": _openai_delta(event), "finish_reason": None}
    yield {"delta": {}, "finish_reason": _finish_reason(request, has_calls=has_calls)}


def _events(request: ParseRequest, pieces: Iterable[str]) -> Iterator[Event]:
    parser = LONGCAT.parser(request.tools, thinking=request.thinking)
    for piece in pieces:
        yield from parser.feed(piece)
    yield from parser.finish(request.finish_reason)


def _finish_reason(request: ParseRequest, *, has_calls: bool) -> str:
    return "tool_calls" if has_calls and request.finish_reason == "stop" else request.finish_reason


def _openai_message(message: AssistantMessage) -> dict[str, Any]:
    openai: dict[str, Any] = {"role": "assistant", "content": message.content}
    if message.reasoning is not None:
        openai["reasoning_content"] = message.reasoning
    if message.calls:
        openai["tool_calls"] = [
            {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for index, (name, arguments) in enumerate(message.calls)
        ]
    return openai


def _openai_delta(event: Event) -> dict[str, Any]:
    match event:
        case ContentDelta(text):
            return {"content": text}
        case ReasoningDelta(text):
            return {"reasoning_content": text}
        case ToolCallStart(index, name):
            function = {"name": name, "arguments": ""}
            return {
                "tool_calls": [
                    {"index": index, "id": f"call_{index}", "type": "function", "function": function}
                ]
            }
        case ArgumentsDelta(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
