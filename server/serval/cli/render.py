"""`serval chat render`: render conversations to prompts, both as JSON Lines."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from serval.api.prompt import declared_tools
from serval.chat import ChatRenderer, load_chat
from serval.cli.prompt_diff import compared
from serval.errors import ApiError, InputLineError
from serval.process.engine_package import demo_model
from serval.wire.chat_decode import conversation_request

_RENDER = """
Reads one conversation a line from standard input, {"messages": [...], "tools": [...], "tool_choice": "auto"},
of which tools and tool_choice may be left out. Writes one line for each: {"text": ..., "input_ids": [...]}.

A line that cannot be rendered ends the run: exit code 2 and a message with its number.

With --diff it compares the prompts of two files instead, each with the body of a request of any API, and says
where they part: from there on the prefix cache does not serve the second one.

examples:
  echo '{"messages": [{"role": "user", "content": "Hi"}]}' | serval chat render
  serval chat render --model ./model --diff turn1.json turn2.json
"""


def configure(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `serval chat render`."""
    render = actions.add_parser(
        "render",
        help="render conversations with the model's chat template and tokenise them",
        description=_RENDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    render.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="folder with tokenizer and template (default: the demo model)",
    )
    render.add_argument(
        "--diff", type=Path, nargs=2, metavar=("A", "B"), help="say where the prompt of B leaves that of A"
    )


def run(args: argparse.Namespace) -> int:
    """Render every line of standard input, or compare two requests.

    Raises `InputLineError` at the first line that cannot be rendered, and `ServalError` as `compared` does.
    """
    renderer = load_chat(args.model or demo_model())
    if args.diff is not None:
        print(compared(renderer, *args.diff))
        return 0
    for number, line in enumerate(sys.stdin, start=1):
        if line.strip():
            print(json.dumps(_rendered(renderer, line, number), ensure_ascii=False), flush=True)
    return 0


def _rendered(renderer: ChatRenderer, line: str, number: int) -> dict[str, Any]:
    try:
        conversation = json.loads(line)
    except ValueError as error:
        raise InputLineError(f"line {number} of the input is not JSON: {error}") from error
    if not isinstance(conversation, dict) or not isinstance(conversation.get("messages"), list):
        raise InputLineError(f'line {number} of the input is not of the form {{"messages": [...]}}')
    try:
        request = conversation_request(conversation)
        prompt = renderer.render(msgspec.to_builtins(request.messages), tools=declared_tools(request))
    except ApiError as error:
        raise InputLineError(f"line {number} of the input cannot be rendered: {error}") from error
    return {"text": prompt.text, "input_ids": prompt.input_ids}
