"""The settings file: TOML, with the names of settings."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serval.errors import SettingsError


def read_settings_file(path: Path) -> Mapping[str, Any]:
    """The file's values by setting, unchecked. Raises `SettingsError` if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {str(path)!r}: {error}") from error
