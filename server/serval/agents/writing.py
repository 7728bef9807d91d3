"""Writing an agent's files into the user's home folder."""

import os
from collections.abc import Callable
from pathlib import Path

from serval.agents.setup import ConfigFile
from serval.errors import ServalError


class ConfigFileError(ServalError):
    """A file of an agent's configuration is not written."""


def write_files(files: tuple[ConfigFile, ...], home: Path, *, replace: Callable[[Path], bool]) -> list[Path]:
    """Write the files below `home`; `replace` is asked before each that exists with another text.

    Returns the paths. Raises `ConfigFileError`, before anything is written, if one may not be replaced.
    """
    paths = [home / file.path for file in files]
    for path, file in zip(paths, files, strict=True):
        if _differs(path, file.text) and not replace(path):
            raise ConfigFileError(
                f"{path} exists and stays as it is; without --write the text is printed, to be merged"
            )
    for path, file in zip(paths, files, strict=True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, file.text)
        except OSError as error:
            raise ConfigFileError(f"cannot write {path}: {error.strerror}") from error
    return paths


def _differs(path: Path, text: str) -> bool:
    """Return True if there is a file with another text, or anything else that is no file."""
    return path.exists() and not (path.is_file() and path.read_bytes() == text.encode())


def _write(path: Path, text: str) -> None:
    """Write the whole file or nothing, so that an agent never reads half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
