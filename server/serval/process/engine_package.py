"""The engine's package, looked up and loaded by name.

The gateway installs and runs without the engine, so it does not import the engine's package. `serval serve`
loads one module of it, the declaration of its options, which imports neither torch nor SGLang.
"""

import argparse
import importlib
import importlib.util
from pathlib import Path
from typing import Protocol, cast

from serval.errors import EngineMissingError, ServalError
from serval.process.child import python_command

_LAUNCHER = "serval_sglang.launch"
_OPTIONS = "serval_sglang.options"


class EngineOptions(Protocol):
    """The options of an engine that `serval serve` needs to know."""

    @property
    def model(self) -> Path:
        """The checkpoint folder."""

    @property
    def served_model_name(self) -> str | None:
        """The model id that clients ask for."""

    @property
    def port(self) -> int:
        """The port that the engine listens on."""


class _OptionsModule(Protocol):
    """The part of `serval_sglang.options` that is used here."""

    DEMO_MODEL: Path

    def add_model_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def add_sglang_flags(self, parser: argparse.ArgumentParser) -> None: ...
    def engine_options(
        self, args: argparse.Namespace, *, host: str, port: int, part: str | None
    ) -> EngineOptions: ...
    def command_line(self, options: EngineOptions) -> list[str]: ...


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the engine's flags about the model and its devices. Raises `EngineMissingError`."""
    _options_module().add_model_arguments(parser)


def add_sglang_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags after `--`, which are passed to SGLang unchanged. Raises `EngineMissingError`."""
    _options_module().add_sglang_flags(parser)


def engine_options(
    args: argparse.Namespace, *, host: str, port: int, part: str | None = None
) -> EngineOptions:
    """The engine's options from parsed flags; `part` such as 0/2 is its part of a machine with several.

    Raises `EngineMissingError`, or `ServalError` if `--model` is not a checkpoint folder.
    """
    require_engine()
    try:
        return _options_module().engine_options(args, host=host, port=port, part=part)
    except ValueError as error:
        # The module's ModelFolderError, whose class is not imported here.
        raise ServalError(str(error)) from None


def engine_command(options: EngineOptions) -> list[str]:
    """The command that runs the engine in this interpreter's environment. Raises `EngineMissingError`."""
    require_engine()
    return python_command(_LAUNCHER, *_options_module().command_line(options))


def engine_check_command(options: EngineOptions) -> list[str]:
    """The command that finds mistakes which would end the engine's start. Raises `EngineMissingError`."""
    return python_command(_LAUNCHER, "--check", *_options_module().command_line(options))


def demo_model() -> Path:
    """The folder of the demo model's checkpoint. Raises `EngineMissingError`."""
    return _options_module().DEMO_MODEL


def require_engine() -> None:
    """Raise `EngineMissingError` unless the engine's package and SGLang are installed. Imports neither."""
    if importlib.util.find_spec("serval_sglang") is None or importlib.util.find_spec("sglang") is None:
        raise _engine_missing()


def _options_module() -> _OptionsModule:
    try:
        return cast("_OptionsModule", importlib.import_module(_OPTIONS))
    except ModuleNotFoundError as error:
        raise _engine_missing() from error


def _engine_missing() -> EngineMissingError:
    return EngineMissingError(
        "the engine is not installed here. Install it with `pip install 'serval-llm[engine]'`, "
        "or run `serval gateway --engine-url URL` in front of an engine elsewhere."
    )
