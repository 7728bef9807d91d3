"""`serval agent`: configure a coding agent for this server."""

import argparse
import sys
from pathlib import Path

from serval.agents.discovery import find_target
from serval.agents.setup import Setup, shell_lines
from serval.agents.table import AGENTS
from serval.agents.writing import write_files
from serval.settings import optional_key

_EXAMPLE = """
Prints the files that the agent reads and the lines to start it with. The key stays in SERVAL_API_KEY.

examples:
  serval agent codex                  print the configuration for the server on this machine
  serval agent codex --write          write its files, then print how to start it
  serval agent claude-code --url https://llm.example.com/v1 --write
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `serval agent`."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("agent", choices=AGENTS, metavar="AGENT", help=", ".join(AGENTS))
    add("--url", default="http://127.0.0.1:8000/v1", help="the API's base URL (default %(default)s)")
    add("--model", metavar="NAME", help="model to use (default: the first that the server offers)")
    add(
        "--context-window",
        type=_tokens,
        metavar="TOKENS",
        help="prompt and answer together (default: ask the server)",
    )
    add(
        "--output-limit",
        type=_tokens,
        metavar="TOKENS",
        help="longest answer (default: a quarter of the context window, at most 32000)",
    )
    add("--write", action="store_true", help="write the files; asks before it replaces one")


def run(args: argparse.Namespace) -> int:
    """Print or write the configuration. Raises `DiscoveryError`, `ConfigFileError`."""
    target = find_target(
        args.url,
        optional_key(),
        model=args.model,
        context_window=args.context_window,
        output_limit=args.output_limit,
    )
    setup = AGENTS[args.agent](target)
    if args.write:
        for path in write_files(setup.files, Path.home(), replace=_may_replace):
            print(f"wrote {path}", file=sys.stderr)
    else:
        for file in setup.files:
            print(f"# ~/{file.path}\n{file.text}")
    print(_start(setup))
    return 0


def _start(setup: Setup) -> str:
    lines = shell_lines(setup)
    return "\n".join([f"# {setup.note}", *lines] if setup.note else lines)


def _may_replace(path: Path) -> bool:
    """Ask at a terminal; without one the answer is no."""
    if not sys.stdin.isatty():
        return False
    print(f"{path} exists. Replace it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _tokens(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens, at least 1")
    return int(text)
