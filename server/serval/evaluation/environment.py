"""Locked environments of the harnesses, installed by uv when they are first needed.

`locks/NAME.lock` pins every package with its hashes. `locks/NAME.left-out` lists packages that a harness
declares and that its parts used here do not import, torch among them.
"""

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serval.evaluation.error import EvaluationError
from serval.settings import child_environment

_LOCKS: Final = Path(__file__).with_name("locks")


def lock_digest(harness: str) -> str:
    """Return the SHA-256 of a harness's lock, in hexadecimal."""
    return hashlib.sha256(_lock(harness).read_bytes()).hexdigest()


def harness_version(harness: str) -> str:
    """Return the version of the harness that its lock pins."""
    (line,) = [line for line in _LOCKS.joinpath(f"{harness}.in").read_text().splitlines() if "==" in line][:1]
    return line.partition("==")[2]


def prepare(harness: str, cache: Path, *, say: Callable[[str], None]) -> Path:
    """Return the Python of the harness's environment below `cache`, which is installed if it is not there.

    Raises `EvaluationError` if uv is missing or cannot install the packages.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache / f"eval-{harness}-{version}-{lock_digest(harness)[:12]}"
    python = folder / "bin" / "python"
    complete = folder / ".complete"
    if complete.exists():
        return python
    cache.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        # A second command that needs the same environment waits here, and then finds it complete.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            say(f"installing {harness} into {folder}")
            shutil.rmtree(folder, ignore_errors=True)
            uv, environment = _uv(), {**child_environment(), "UV_CACHE_DIR": str(cache / "uv")}
            _run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], environment)
            sync = ["pip", "sync", "--quiet", "--require-hashes", "--python", str(python)]
            _run([*uv, *sync, str(_lock(harness))], environment)
            complete.touch()
    return python


def _lock(harness: str) -> Path:
    return _LOCKS / f"{harness}.lock"


def _uv() -> list[str]:
    """Return the command of uv: the installed package, else the program on PATH."""
    if importlib.util.find_spec("uv") is not None:
        return [sys.executable, "-m", "uv"]
    program = shutil.which("uv")
    if program is None:
        raise EvaluationError("uv is needed to install the harness: `pip install 'serval-llm[eval]'`")
    return [program]


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EvaluationError(f"the harness could not be installed: {done.stderr.strip()[-2000:]}")
