"""Commands that begin with a slash, in place of a message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serval.errors import ServalError
from serval.talk.conversation import Conversation

Command = Callable[[Conversation, str], str]


class CommandError(ServalError):
    """A command cannot be done."""


def run_command(conversation: Conversation, line: str) -> str:
    """Do the command of a line that begins with `/`, and return what to show. Raises `CommandError`."""
    name, _, argument = line.removeprefix("/").partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise CommandError(f"there is no /{name}; /help lists the commands")
    return command(conversation, argument.strip())


def _tools(conversation: Conversation, _: str) -> str:
    """List the tools that the model may call."""
    lines = []
    for tool in conversation.tools:
        summary = str(tool.declaration["function"].get("description", "")).partition("\n")[0]
        lines.append(f"{tool.name}  {summary}{'' if tool.call else '  (you give the results)'}")
    return "\n".join(lines) or "none; give a file with --tools"


def _tokens(conversation: Conversation, _: str) -> str:
    """Show the tokens of the last answer and its prompt."""
    usage = conversation.usage
    if usage is None:
        return "no answer yet"
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details is not None else None
    found = "" if cached is None else f", {cached:,} of them from the cache"
    return f"prompt {usage.prompt_tokens:,}{found}; answer {usage.completion_tokens:,}"


def _save(conversation: Conversation, argument: str) -> str:
    """Write the messages to a file, as JSON: /save FILE."""
    if not argument:
        raise CommandError("name a file: /save FILE")
    text = json.dumps(conversation.messages, indent=2, ensure_ascii=False)
    try:
        Path(argument).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {argument!r}: {error.strerror}") from error
    return f"saved {len(conversation.messages)} messages to {argument}"


def _reset(conversation: Conversation, _: str) -> str:
    """Forget the conversation, except a system message."""
    conversation.messages = [message for message in conversation.messages if message["role"] == "system"]
    return "forgotten"


def _help(_: Conversation, __: str) -> str:
    """List the commands."""
    width = max(map(len, COMMANDS))
    lines = [f"/{name:<{width}}  {(command.__doc__ or '').rstrip('.')}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "Ctrl-C stops an answer, Ctrl-D ends the program"])


COMMANDS: Final[dict[str, Command]] = {
    "tools": _tools,
    "tokens": _tokens,
    "save": _save,
    "reset": _reset,
    "help": _help,
}
