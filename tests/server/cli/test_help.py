"""Help texts: the defaults they name are those of the settings."""

import argparse
import importlib
import re
from collections.abc import Iterator

import pytest

from serval.cli import COMMANDS, ENGINE_COMMANDS, main
from serval.settings import Settings, default_text


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from actions_of(subparser)


def configured(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[command][0]).configure(parser)
    return parser


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - ENGINE_COMMANDS.keys()))
def test_help_names_the_default_of_each_setting(command: str) -> None:
    for action in actions_of(configured(command)):
        field = Settings.model_fields.get(action.dest)
        if field is not None and field.default is not None:
            assert re.findall(r"\(default (.*)\)", action.help or "") == [default_text(action.dest)]


def test_help_is_compared_for_options_that_have_defaults() -> None:
    compared = {
        action.dest
        for command in ("serve", "gateway", "doctor")
        for action in actions_of(configured(command))
        if action.dest in Settings.model_fields and Settings.model_fields[action.dest].default is not None
    }
    assert compared == {"engine_url", "engine_timeout_s", "host", "port", "workers"}


@pytest.mark.parametrize(
    ("arguments", "command"),
    [("serve --mdoel m", "serve"), ("keys list --all", "keys list"), ("agent pi --print", "agent")],
)
def test_unknown_option_is_refused_with_the_usage_of_the_command(
    arguments: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"usage: serval {command} [")
    assert f"serval {command}: error: unrecognized arguments: --" in errors
