"""`serval chat`: talk to a server in the terminal; `serval chat render` shows what the model is given."""

import argparse
import sys
from pathlib import Path

from serval.cli import render
from serval.errors import ServalError

_EXAMPLE = """\
examples:
  export SERVAL_API_KEY=sk-...        the key that `serval serve` showed
  serval chat                         talk to the server on this machine
  serval chat --ask "What is Serval?" one answer, and nothing else on standard output
  serval chat --tools weather.py      functions of a Python file, which the model may call
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `serval chat`."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000/v1", help="the API's base URL (default %(default)s)")
    add("--model", metavar="NAME", help="model to ask (default: the first that the server offers)")
    add("--system", metavar="TEXT", help="system message")
    add(
        "--tools",
        type=Path,
        metavar="FILE",
        help="a JSON list of tools whose results you type, or a Python file whose functions are run",
    )
    add("--ask", metavar="TEXT", help="ask this and end (default: a prompt, or all of a pipe)")
    render.configure(parser.add_subparsers(dest="action", metavar="[render]"))


def run(args: argparse.Namespace) -> int:
    """Answer one question, or ask for more until the end of input. Raises `ServalError`."""
    if args.action == "render":
        return render.run(args)
    try:
        from serval.talk.prompt import open_conversation, talk
    except ModuleNotFoundError as error:
        raise ServalError("`serval chat` needs the openai package: pip install 'serval-llm[chat]'") from error
    conversation = open_conversation(args.url, model=args.model, system=args.system, tools_file=args.tools)
    if args.ask is None and sys.stdin.isatty():
        return talk(conversation)
    conversation.ask(sys.stdin.read() if args.ask is None else args.ask)
    return 0
