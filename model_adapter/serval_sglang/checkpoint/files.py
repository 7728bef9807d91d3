"""Files of a checkpoint directory: their names, the files that hold weights, and config.json."""

import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from serval_sglang.config import LongcatConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# The same weights in the format of their authors, which some publish beside the others.
CONSOLIDATED_FILE = "consolidated.safetensors"


class CheckpointError(ValueError):
    """A checkpoint does not match its config.json, or cannot be read or written."""


def load_config(directory: Path | str) -> LongcatConfig:
    """Read the checkpoint's config.json. Raises `CheckpointError` if it is absent, `ConfigError` if wrong."""
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: the directory must be that of a checkpoint.")
    return LongcatConfig.from_json_file(path)


def list_files(directory: Path) -> list[str]:
    """List the files in `directory` and its folders, as sorted relative paths with "/".

    Names that begin with a dot are skipped: download tools record their progress in such files. A link to a
    file counts as the file, because download caches consist of links. Raises `CheckpointError` if there
    is a link to a directory, or something that is neither file nor directory.
    """
    found = []
    for folder, subfolders, names in os.walk(directory, onerror=_raise):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            if Path(folder, name).is_symlink():
                raise CheckpointError(
                    f"{Path(folder, name)} is a link to a directory: use the directory itself."
                )
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if not path.is_file():
                raise CheckpointError(f"{path} is a broken link, or neither file nor directory: remove it.")
            found.append(path.relative_to(directory).as_posix())
    return sorted(found)


def weight_files(directory: Path) -> dict[str, frozenset[str] | None]:
    """Map each file of weights to the tensor names that the index lists for it, or to None without an index.

    Raises `CheckpointError` if there is neither a single file of weights nor a readable index.
    """
    index = directory / INDEX_FILE
    if not index.is_file():
        if (directory / WEIGHTS_FILE).is_file():
            return {WEIGHTS_FILE: None}
        raise CheckpointError(
            f"{directory} must hold {WEIGHTS_FILE} or {INDEX_FILE}; other formats are not read."
        )
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index} must be a JSON object with a 'weight_map'.") from error
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"weight_map of {index} must be a JSON object, got {weight_map!r}.")
    files: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index} must name files beside it, got {file!r} for {name}.")
        files.setdefault(file, set()).add(name)
    return {file: frozenset(names) for file, names in files.items()}


def unread_weight_files(directory: Path, files: Collection[str]) -> list[str]:
    """List those of `files` that are safetensors, but not of this checkpoint: the engine reads none of them.

    These are files in folders (`original/`, adapters) and, beside an index, files that it does not list.
    Without an index SGLang reads every file in the directory itself, except that it prefers
    `model.safetensors` to a lone `consolidated.safetensors` (`filter_duplicate_safetensors_files`).
    """
    weights = [file for file in files if file.endswith(".safetensors")]
    read = {file for file in weights if "/" not in file}
    if (directory / INDEX_FILE).is_file():
        with suppress(CheckpointError):
            read = set(weight_files(directory))
    elif read == {CONSOLIDATED_FILE, WEIGHTS_FILE}:
        read = {WEIGHTS_FILE}
    return [file for file in weights if file not in read]


def refuse_present_weights(directory: Path) -> None:
    """Raise `CheckpointError` if the directory holds weights, which could be confused with new ones."""
    present = sorted(path.name for path in directory.glob("*.safetensors*"))
    if present:
        raise CheckpointError(
            f"{directory} already holds {present!r}: remove them or choose another directory."
        )


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write one JSON object, indented, with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _raise(error: OSError) -> None:
    raise error
