"""One task for every agent, and the turns of a model that does it: read a file, edit it, run a test, end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serval_testkit.scripted_engine import calls

TASK = "Fix the bug in calc.py so that add returns the sum, then run python3 test_calc.py."
DONE = "The bug is fixed and the test passes."
FILES = {
    "calc.py": "def add(a, b):\n    return a - b\n",
    "test_calc.py": "from calc import add\n\nassert add(2, 3) == 5\nprint('passed')\n",
}
_OLD, _NEW, _RUN = "return a - b", "return a + b", "python3 test_calc.py"


def _codex(_: Path) -> list[str]:
    return [
        calls("exec_command", cmd="cat calc.py"),
        calls("exec_command", cmd=f"sed -i 's/{_OLD}/{_NEW}/' calc.py"),
        calls("exec_command", cmd=_RUN),
    ]


def _claude_code(folder: Path) -> list[str]:
    path = str(folder / "calc.py")
    return [
        calls("Read", file_path=path),
        calls("Edit", file_path=path, old_string=_OLD, new_string=_NEW),
        calls("Bash", command=_RUN, description="Run the test"),
    ]


def _opencode(folder: Path) -> list[str]:
    path = str(folder / "calc.py")
    return [
        calls("read", filePath=path),
        calls("edit", filePath=path, oldString=_OLD, newString=_NEW),
        calls("bash", command=_RUN, description="Run the test"),
    ]


def _pi(_: Path) -> list[str]:
    return [
        calls("read", path="calc.py"),
        calls("edit", path="calc.py", edits=f'[{{"oldText": "{_OLD}", "newText": "{_NEW}"}}]'),
        calls("bash", command=_RUN),
    ]


_CALLS: Mapping[str, Callable[[Path], Sequence[str]]] = {
    "claude-code": _claude_code,
    "codex": _codex,
    "opencode": _opencode,
    "pi": _pi,
}
NAMES = tuple(_CALLS)


def turns_of(agent: str, folder: Path) -> list[str]:
    """Return the model's turns in a task in `folder`, in the agent's own tools."""
    read, *rest = _CALLS[agent](folder)
    return [f"I will read the file.{read}", *rest, DONE]
