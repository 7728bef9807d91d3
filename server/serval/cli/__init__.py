"""The `serval` command: one module per subcommand, each with `configure(parser)` and `run(args) -> code`.

Commands of the engine's package replace this process, which imports nothing of it.

Exit codes: 0 success, 1 a negative result or a failure, 2 a usage error or a malformed line of input.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import serval
from serval.cli.delegate import run_engine_module
from serval.errors import InputLineError, ServalError

# name -> (module, one line of help). Modules are imported only when their command runs or prints its help.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serval.cli.serve", "start the engine and the gateway together"),
    "engine": ("serval_sglang.launch", "start the SGLang engine with Serval's model adapter"),
    "gateway": ("serval.cli.gateway", "start the gateway in front of a running engine"),
    "keys": ("serval.cli.keys", "make, list, change, rotate and revoke API keys"),
    "teams": ("serval.cli.teams", "make, list, change and delete teams of keys, with shared budgets"),
    "engines": ("serval.cli.engines", "list, drain and weigh the engines behind running gateways"),
    "usage": ("serval.cli.usage", "show who used how much, by key, model, day or hour"),
    "config": ("serval.cli.config", "show every setting and what it is now"),
    "doctor": ("serval.cli.doctor", "check that everything the gateway and the engine need is there"),
    "tools": ("serval.cli.tools", "parse tool calls out of model text"),
    "chat": ("serval.cli.chat", "talk to a server; render conversations as the model sees them"),
    "agent": ("serval.cli.agent", "configure a coding agent, such as Codex or Claude Code, for a server"),
    "clients": ("serval.cli.clients", "replay recorded requests of agents and libraries against a server"),
    "eval": ("serval.cli.eval", "run evaluation suites, beside the paper's figures"),
    "checkpoint": ("serval_sglang.cli.checkpoint", "make, inspect, verify and pin checkpoints"),
    "plan": ("serval_sglang.cli.plan", "say whether a model fits on given GPUs"),
    "context": ("serval_sglang.cli.context", "say what long prompts cost, and when retrieval is cheaper"),
}
# Commands of the engine's package get their arguments unchanged, --help included.
ENGINE_COMMANDS = {
    name: command for name, command in COMMANDS.items() if command[0].startswith("serval_sglang.")
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the process exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in ENGINE_COMMANDS:
            module, _ = ENGINE_COMMANDS[arguments[0]]
            run_engine_module(module, arguments[1:])
        args = _parser(arguments).parse_args(arguments)
        code = int(args.run(args))
        # Here, where an error can still be handled.
        sys.stdout.flush()
        return code
    except ServalError as error:
        print(f"serval {arguments[0]}: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputLineError) else 1
    except BrokenPipeError:
        # The reader of a pipe, `head` for one, has ended. Python would write the rest to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 130


class _Command(argparse.ArgumentParser):
    """A command's parser, which refuses unknown options with the command's own usage.

    By default argparse leaves them to the outermost parser, whose usage names only commands.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="serval", description="Serve LongCat-Flash-Lite on SGLang.")
    parser.add_argument("--version", action="version", version=f"serval {serval.__version__}")
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Command
    )
    # Only the chosen command is imported, so `serval keys` never waits for another command's imports.
    chosen = next((argument for argument in arguments if argument in COMMANDS), None)
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == chosen and name not in ENGINE_COMMANDS:
            command = importlib.import_module(module)
            command.configure(subparser)
            subparser.set_defaults(run=command.run)
    return parser
