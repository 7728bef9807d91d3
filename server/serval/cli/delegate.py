"""Commands of the engine's package, run in place of this process, which never imports torch."""

import os
from collections.abc import Sequence
from typing import NoReturn

from serval.process.child import python_command
from serval.process.engine_package import require_engine


def run_engine_module(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process with `python -m module`, passing `arguments` unchanged.

    Raises:
        EngineMissingError: the engine's packages are not installed.
    """
    require_engine()
    command = python_command(module, *arguments)
    os.execv(command[0], command)  # noqa: S606  # no shell is wanted: the arguments are passed as they are
