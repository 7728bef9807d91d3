"""Detection of files in a checkpoint directory that could run code when loaded.

Serval reads only safetensors and never asks for remote code, but other tools may load the same directory.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from serval_sglang.checkpoint.files import CheckpointError

Hazard = Literal["pickle", "remote-code"]

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_CODE_SUFFIXES = frozenset({".py", ".pyc", ".so"})


@dataclass(frozen=True, slots=True)
class UnsafeFile:
    """A file's path within the directory, and its hazard."""

    path: str
    hazard: Hazard

    def __str__(self) -> str:
        match self.hazard:
            case "pickle":
                return f"{self.path}: a pickle runs code when it is loaded"
            case "remote-code":
                return f"{self.path}: code, or a reference to it (auto_map), for trust_remote_code"
        assert_never(self.hazard)


def unsafe_files(directory: Path, files: Iterable[str]) -> list[UnsafeFile]:
    """Return those of `files` (paths within `directory`) that are pickles, code, or refer to code."""
    return [
        UnsafeFile(file, hazard) for file in files if (hazard := _hazard(directory, Path(file))) is not None
    ]


def refuse_unsafe_files(
    directory: Path, files: Iterable[str], *, allowed: Collection[Hazard] = frozenset()
) -> None:
    """Raise `CheckpointError`, listing them, if any of `files` has a hazard that is not `allowed`."""
    found = [unsafe for unsafe in unsafe_files(directory, files) if unsafe.hazard not in allowed]
    if found:
        hazards = sorted({unsafe.hazard for unsafe in found})
        raise CheckpointError(
            f"{directory} holds {len(found)} files that may run code: {'; '.join(map(str, found))}. Serval "
            "needs none of them: remove them (auto_map is a key of the JSON object), or pass "
            f"{' '.join(f'--allow {hazard}' for hazard in hazards)} to accept them."
        )


def _hazard(directory: Path, file: Path) -> Hazard | None:
    suffix = file.suffix.lower()
    if suffix in _PICKLE_SUFFIXES:
        return "pickle"
    if suffix in _CODE_SUFFIXES or (suffix == ".json" and _refers_to_code(directory / file)):
        return "remote-code"
    return None


def _refers_to_code(file: Path) -> bool:
    """True for a configuration of model, tokenizer or processor that has an auto_map."""
    if not file.name.endswith("config.json"):
        return False
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and bool(content.get("auto_map"))
