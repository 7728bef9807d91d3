"""Steps as data: each command parses with its program's own parser, each measurement follows a check."""

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from serval_load.gpu_check.settings import ROOT
from serval_load.gpu_check.step import Step, words
from serval_load.gpu_check.steps import STEPS
from serval_sglang.settings import model_settings
from serval_testkit.sglang_flags import argument_of, engine_arguments

NAMES = [step.name for step in STEPS]
MEASURING = [step for step in STEPS if step.measures]


class Parsed(Exception):
    """The program has parsed its command line."""


def commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    for step in STEPS:
        for kind, command in (("run", step.command), ("rehearsal", step.rehearsal)):
            if command:
                yield f"{step.name}, {kind}", command


def flags_for_sglang(command: tuple[str, ...]) -> Iterator[str]:
    if "--" in command:
        yield from command[command.index("--") + 1 :]
    yield from (word.removeprefix("--beside=") for word in command if word.startswith("--beside="))


COMMANDS = dict(commands())
PROGRAMS = {label: command for label, command in COMMANDS.items() if command[1] != "pytest"}


@pytest.mark.parametrize("label", PROGRAMS)
def test_step_command_parses_with_the_parser_of_its_program(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Checkpoints that earlier steps write.
    for step in STEPS:
        (tmp_path / (step.writes or "rows")).mkdir(exist_ok=True)
    rows = str(tmp_path / "rows" / "rows.jsonl")
    dash_m, name, *arguments = words(PROGRAMS[label], work=str(tmp_path), rows=rows, model=str(tmp_path))
    assert dash_m == "-m"
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: object) -> NoReturn:
        parse(parser, *given)  # type: ignore[call-overload]
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(Parsed):
        importlib.import_module(f"{name}.__main__").main()


@pytest.mark.parametrize("label", set(COMMANDS) - set(PROGRAMS))
def test_step_command_of_pytest_names_tests_that_exist(label: str) -> None:
    paths = [word for word in COMMANDS[label] if word.startswith("tests/")]
    assert paths
    assert all((ROOT / path).exists() for path in paths)


def test_flags_for_sglang_are_engine_arguments() -> None:
    asked = {argument_of(flag) for command in COMMANDS.values() for flag in flags_for_sglang(command)}
    assert "moe_a2a_backend" in asked
    assert asked <= engine_arguments()


def test_variables_of_steps_are_settings_of_the_adapter() -> None:
    changed = {model_settings(step.environment) for step in STEPS if step.environment}
    assert model_settings({}) not in changed
    assert {settings.ngram_tables for settings in changed} == {"device", "host"}
    assert any(settings.moe_overlap_tokens for settings in changed)


def test_steps_have_names_of_their_own_and_follow_what_they_need() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for number, step in enumerate(STEPS):
        assert set(step.after) <= set(NAMES[:number]), step.name


def test_steps_have_a_command_and_time_for_it() -> None:
    for step in STEPS:
        assert step.command, step.name
        assert 0 < step.expected_s <= step.limit_s, step.name


@pytest.mark.parametrize("step", MEASURING, ids=lambda step: step.name)
def test_step_that_measures_follows_checks_and_writes_rows(step: Step) -> None:
    checks = {name for name in step.after if not next(s for s in STEPS if s.name == name).measures}
    assert checks == set(step.after) != set()
    assert "{rows}" in step.command


def test_rehearsed_steps_follow_rehearsed_steps() -> None:
    rehearsed = {step.name for step in STEPS if step.rehearsal}
    assert {name for step in STEPS if step.rehearsal for name in step.after} <= rehearsed
    assert {step.group for step in STEPS if step.rehearsal} == {"kernels", "adapter", "full size"}


def test_kernels_need_neither_sglang_nor_this_environment() -> None:
    for step in STEPS:
        if step.group == "kernels":
            assert set(step.needs.packages) <= {"torch", "triton", "pytest", "hypothesis"}
            assert step.needs.gpus == 1


def test_first_ten_minutes_reach_kernels_and_the_engine_against_the_reference() -> None:
    wanted = NAMES.index("adapter: bf16")
    assert sum(step.expected_s for step in STEPS[: wanted + 1]) <= 600


def test_orchestrator_imports_only_the_standard_library() -> None:
    import ast

    folder = Path(sys.modules["serval_load.gpu_check"].__path__[0])
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name.startswith("serval_load.gpu_check")
                assert own or name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"
