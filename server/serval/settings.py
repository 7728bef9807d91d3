"""The gateway's settings: one frozen object, built once at start-up and passed down.

This is the only module of the package that reads the environment. Every field is the variable
`SERVAL_<FIELD IN CAPITALS>`, or a line of the settings file; variables win over the file, options over both.
"""

import os
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr, ValidationError

from serval import setting_names
from serval.batch_setting_fields import BatchSettingFields
from serval.errors import SettingsError
from serval.setting_names import variable_of
from serval.settings_file import read_settings_file

API_KEY_VARIABLE = "SERVAL_API_KEY"
# The standard variable, which all programs of an installation may share.
_OTLP_VARIABLE: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
# Settings that a running gateway reloads from its settings file.
REREAD: Final = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "tokens_per_day",
    "reserved_completion_tokens",
    "model_aliases",
)


class Settings(BatchSettingFields):
    """All settings."""


def default_text(field: str) -> str:
    """The default of the field, as help texts show it."""
    default = Settings.model_fields[field].default
    return f"{default:g}" if isinstance(default, float) else str(default)


def load_settings(**overrides: Any) -> Settings:
    """Read the environment and the settings file; `overrides` that are not None win.

    Raises `SettingsError` naming each bad field.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    file = _settings_file(given.get("settings_file"))
    for name, (value, _) in _values_beside_variables(file).items():
        given.setdefault(name, value)
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = setting_names.problems(error, Settings.model_fields)
        where = "variables SERVAL_*, options" + (f", or the file {str(file)!r}" if file else "")
        raise SettingsError(f"invalid settings ({where}): {problems}") from None


def setting_sources(settings_file: Path | None = None) -> dict[str, str]:
    """Where each setting's value comes from: `default`, a variable or the settings file, by name.

    `settings_file` is the option. Raises `SettingsError` if the file cannot be read.
    """
    variables = {name.upper() for name in os.environ}
    beside = _values_beside_variables(_settings_file(settings_file))
    sources = {
        name: f"variable {variable_of(name)}" if variable_of(name) in variables else "default"
        for name in Settings.model_fields
    }
    sources |= {name: source for name, (_, source) in beside.items()}
    return sources | ({} if settings_file is None else {"settings_file": "option --settings-file"})


def unknown_variables() -> dict[str, str]:
    """The variables `SERVAL_*` of the environment that nothing reads, each with a sentence about it."""
    return setting_names.unknown_variables(os.environ, Settings.model_fields)


def _settings_file(option: Path | None) -> Path | None:
    file = option or os.environ.get(variable_of("settings_file"))
    return Path(file) if file else None


def _values_beside_variables(file: Path | None) -> dict[str, tuple[Any, str]]:
    """Values of settings whose own variable is not set, each with its source."""
    found: dict[str, tuple[Any, str]] = {}
    if _OTLP_VARIABLE in os.environ:
        found["otlp_endpoint"] = (os.environ[_OTLP_VARIABLE], f"variable {_OTLP_VARIABLE}")
    if file is not None:
        found |= {name: (value, f"settings file {file}") for name, value in read_settings_file(file).items()}
    variables = {name.upper() for name in os.environ}
    return {name: entry for name, entry in found.items() if variable_of(name) not in variables}


def optional_key() -> str | None:
    """Return the key of a client, `SERVAL_API_KEY`, if it is set."""
    return os.environ.get(API_KEY_VARIABLE) or None


def required_key() -> str:
    """Return the key of a client, `SERVAL_API_KEY`. Raises `SettingsError` if it is not set."""
    key = optional_key()
    if key is None:
        raise SettingsError(f"no key: `export {API_KEY_VARIABLE}=sk-...`, a key that the server accepts")
    return key


def state_folder() -> Path:
    """Return the folder of the user's state, `serval` in `$XDG_STATE_HOME` (XDG Base Directory 0.8)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "serval"


def cache_folder() -> Path:
    """Return the folder of installed packages, which `make` uses, too: `SERVAL_CACHE_DIR`, or XDG's cache."""
    chosen = os.environ.get("SERVAL_CACHE_DIR")
    return Path(chosen or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serval")


def child_environment(settings: Settings | None = None) -> dict[str, str]:
    """This process's environment for a child; with `settings`, the child loads exactly these.

    The child reads reloadable settings from the settings file itself, if there is one. It gets no variables
    that nothing reads: this process has named them.
    """
    environment = dict(os.environ)
    if settings is not None:
        for name in unknown_variables():
            del environment[name]
        for name in type(settings).model_fields:
            if name in REREAD and settings.settings_file is not None:
                continue
            value = getattr(settings, name)
            variable = variable_of(name)
            environment.pop(variable, None)
            if value is not None:
                environment[variable] = (
                    value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                )
        if settings.metrics_directory is not None:
            # The variable that prometheus_client reads.
            environment["PROMETHEUS_MULTIPROC_DIR"] = str(settings.metrics_directory)
    return environment
