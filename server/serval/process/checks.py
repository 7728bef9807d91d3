"""Programs that find mistakes, run before `serval serve` starts anything that takes long."""

import re
import subprocess
from collections.abc import Sequence

from serval.errors import StackError
from serval.process.child import ProcessSpec

_ERROR = re.compile(r"^serval[\w ]*: error: (.*)", re.MULTILINE | re.DOTALL)


def require_no_mistakes(checks: Sequence[ProcessSpec]) -> None:
    """Run the checks side by side. Raises `StackError` with the messages of all that failed."""
    running = [
        subprocess.Popen(
            check.argv,
            env=dict(check.environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for check in checks
    ]
    outputs = [program.communicate()[1] for program in running]
    mistakes = [
        _message(output) for program, output in zip(running, outputs, strict=True) if program.returncode != 0
    ]
    if mistakes:
        raise StackError("; ".join(mistakes))


def _message(output: str) -> str:
    """Return the error without the name of its program; else the last line, of a traceback for example."""
    error = _ERROR.search(output)
    lines = output.strip().splitlines() or ["a check failed and printed nothing"]
    return lines[-1] if error is None else error[1].strip()
