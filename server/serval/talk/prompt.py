"""The loop of `serval chat` at a terminal."""

import contextlib
import sys
from pathlib import Path

import openai
from rich.console import Console
from rich.text import Text

from serval.errors import ServalError
from serval.settings import required_key
from serval.talk.commands import run_command
from serval.talk.conversation import Conversation, served_model
from serval.talk.tools import load_tools

with contextlib.suppress(ImportError):
    import readline  # noqa: F401  # gives `input` a history and keys to edit the line

_PROMPT = "> "
# C0 and C1 controls and DEL.
_UNPRINTABLE = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class TerminalDisplay:
    """Prints a conversation; only the answer goes to standard output."""

    def __init__(self) -> None:
        self._notes = Console(stderr=True, highlight=False)

    def text(self, piece: str) -> None:
        """Print a piece of the answer."""
        print(printable(piece), end="", flush=True)

    def reasoning(self, piece: str) -> None:
        """Print a piece of the reasoning, dimmed."""
        self._notes.print(Text(printable(piece), style="dim"), end="", soft_wrap=True)

    def call(self, name: str, arguments: str) -> None:
        """Print a call."""
        self._notes.print(Text(printable(f"→ {name}({arguments})"), style="cyan"), soft_wrap=True)

    def result(self, text: str) -> None:
        """Print the result of a call."""
        self._notes.print(Text(printable(f"← {text}"), style="dim"), soft_wrap=True)

    def end(self, finish_reason: str) -> None:
        """End the line, and say so if the answer was cut."""
        if finish_reason != "tool_calls":
            print(flush=True)
        if finish_reason == "length":
            self._notes.print("(cut at the limit of tokens)", style="yellow")

    def ask_for_result(self, name: str) -> str:
        """Ask the user to type the result."""
        return input(f"result of {name}> ")


def printable(text: str) -> str:
    """Replace control characters, which could rewrite the screen; line breaks and tabs stay."""
    return text.translate(_UNPRINTABLE)


def open_conversation(
    url: str, *, model: str | None, system: str | None, tools_file: Path | None
) -> Conversation:
    """Return a new conversation with the server at `url`, with its first model if `model` is None.

    Raises `ServalError`.
    """
    tools = [] if tools_file is None else load_tools(tools_file)
    client = openai.OpenAI(base_url=url, api_key=required_key(), max_retries=0)
    messages = [] if system is None else [{"role": "system", "content": system}]
    return Conversation(client, model or served_model(client), TerminalDisplay(), tools, messages)


def talk(conversation: Conversation) -> int:
    """Ask for messages and commands until the end of input; return the exit code."""
    notes = Console(stderr=True, highlight=False)
    notes.print(f"{conversation.model}; /help lists the commands", style="dim")
    while True:
        try:
            line = input(_PROMPT).strip()
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            continue
        if not line:
            continue
        try:
            if line.startswith("/"):
                print(run_command(conversation, line))
            else:
                conversation.ask(line)
        except ServalError as error:
            notes.print(Text(str(error), style="red"), soft_wrap=True)
        except KeyboardInterrupt:
            print("\n(stopped; the question is forgotten)", file=sys.stderr)
