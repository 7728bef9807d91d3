"""`serval engine`: SGLang with Serval's model adapter, in this process's place."""

import argparse
import os

from serval.process.options import (
    add_model_arguments,
    add_sglang_flags,
    engine_command,
    engine_options,
    tcp_port,
)

EXAMPLE = """\
example:
  serval engine --model /models/LongCat-Flash-Lite --tp 2 --ep 2 --port 30000 -- --mem-fraction-static 0.9
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `serval engine`."""
    parser.epilog = EXAMPLE
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=tcp_port, default=30000, help="port to listen on (default 30000)")
    add_sglang_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Replace this process by the engine."""
    command = engine_command(engine_options(args, host=args.host, port=args.port))
    os.execv(command[0], command)  # noqa: S606  # no shell is wanted: the arguments are passed as they are
