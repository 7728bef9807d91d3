"""Results on disk, one JSON line a step, and the key by which a later run knows that they still hold."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from serval_load.gpu_check.machine import Machine

State = Literal["green", "red", "stopped", "skipped", "blocked", "no time", "interrupted"]

# A change of any of these may change a result.
_CODE = ("kernels", "model_adapter", "tests/kernels", "tests/model_adapter/layers", "requirements.lock")


@dataclass(frozen=True)
class Result:
    """End of a step. `says` is one line; `verdicts` are the lines of a check's parts; `rows` are the
    measurements, each with its own check."""

    step: str
    state: State
    says: str = ""
    seconds: float = 0.0
    verdicts: tuple[str, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
    key: str = ""
    before: bool = False  # taken over from an earlier run


def key_of(code: str, machine: Machine, command: Sequence[str]) -> str:
    """Return a digest of code, GPUs, versions and command."""
    return hashlib.sha256(json.dumps([code, str(machine), list(command)]).encode()).hexdigest()[:16]


def code_digest(root: Path) -> str:
    """Return a digest of the sources that results depend on, committed or not."""
    digest = hashlib.sha256()
    for name in _CODE:
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def append(path: Path, result: Result, **more: object) -> None:
    """Add one line."""
    content = {"at": time.strftime("%Y-%m-%dT%H:%M:%S"), **asdict(result), **more}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def earlier_results(path: Path) -> dict[str, Result]:
    """Return the last result of each step. A line that an interrupted run has not completed is left out."""
    found = {}
    for content in json_lines(path):
        result = Result(
            step=content["step"],
            state=content["state"],
            says=content["says"],
            seconds=content["seconds"],
            verdicts=tuple(content["verdicts"]),
            rows=tuple(content["rows"]),
            key=content["key"],
        )
        found[result.step] = result
    return found


def still_green(step: str, key: str, earlier: Mapping[str, Result]) -> Result | None:
    """Return the earlier result of a step if it was green with the same code, machine and command."""
    result = earlier.get(step)
    if result is None or result.state != "green" or result.key != key:
        return None
    return replace(result, before=True)


def json_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Yield the objects in a file of JSON lines, leaving out lines that are cut off; none if it is absent."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
