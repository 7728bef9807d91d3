"""Commands that pages show exist, and have the options that are shown."""

import argparse
import importlib
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serval.cli import ENGINE_COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(?:console|bash|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class ParsedError(Exception):
    """The command line was parsed."""


def pages() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def shown_commands(page: str) -> Iterator[list[str]]:
    """The words of each command, without variables set before it, and without what follows a pipe."""
    for block in BLOCK.findall((ROOT / page).read_text()):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        # A block with prompts shows output too.
        typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")] or lines
        for line in typed:
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
            lexer.whitespace_split = True
            try:
                words = list(lexer)
            except ValueError:  # a quotation over several lines
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            end = next((place for place, word in enumerate(words) if set(word) <= set("|&;<>()")), len(words))
            if words[:end]:
                yield words[:end]


SHOWN = [(page, command) for page in pages() for command in shown_commands(page)]


def of(*programs: str) -> list[Any]:
    return [
        pytest.param(command, id=f"{page}: {' '.join(command)[:60]}")
        for page, command in SHOWN
        if Path(command[0]).name in programs
    ]


@pytest.fixture
def parsing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Command lines are parsed, and nothing is done."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        parse_args(parser, *arguments)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    # The pages' folders are not on this machine.
    monkeypatch.setattr(Path, "is_dir", lambda _: True)


def engine_command(name: str) -> Callable[[list[str]], object]:
    """The main function of a command that `python -m` runs."""
    module = importlib.import_module(ENGINE_COMMANDS[name][0])
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.__main__")
    command: Callable[[list[str]], object] = module.main
    return command


@pytest.mark.usefixtures("parsing_only")
@pytest.mark.parametrize("command", of("serval"))
def test_serval_commands_of_pages_parse(command: list[str]) -> None:
    name = command[1]
    with pytest.raises(ParsedError):
        engine_command(name)(command[2:]) if name in ENGINE_COMMANDS else main(command[1:])


@pytest.mark.parametrize("command", of("make"))
def test_make_targets_of_pages_exist(command: list[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [word for word in command[1:] if not word.startswith("-") and "=" not in word]
    assert set(named) <= targets


@pytest.mark.parametrize("command", of("python", "python3"))
def test_python_programs_of_pages_exist(command: list[str]) -> None:
    match command[1:]:
        case ["-m", module, *_]:
            assert importlib.util.find_spec(module) is not None
        case [script, *_] if "/" in script:
            assert (ROOT / script).is_file()
