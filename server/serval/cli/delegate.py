"""Commands of the engine's package, run in this process's place: the gateway's own imports hold no torch."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from serval.process.options import engine_package_directory


def run_engine_module(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by `python -m module`, with `arguments` as they are.

    Raises:
        EngineMissingError: the engine's packages are not installed.
    """
    engine_package_directory()
    # -P keeps the working directory off the import path: it may be an untrusted checkpoint with code in it.
    command = [sys.executable, "-P", "-m", module, *arguments]
    os.execv(command[0], command)  # noqa: S606  # no shell is wanted: the arguments are passed as they are
