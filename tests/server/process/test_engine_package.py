"""The engine's command line, from the flags of `serval serve`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from serval.process.engine_package import (
    add_model_arguments,
    add_sglang_flags,
    engine_command,
    engine_options,
)


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_model_arguments(made)
    add_sglang_flags(made)
    return made


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return f"--model={tmp_path}"


def command(parser: argparse.ArgumentParser, arguments: list[str]) -> list[str]:
    return engine_command(engine_options(parser.parse_args(arguments), host="127.0.0.1", port=1))


def test_engine_command_passes_the_options_on(parser: argparse.ArgumentParser, model: str) -> None:
    made = command(parser, [model, "--ngram-tables=host", "--moe-overlap-tokens=64", "--", "--dtype=float32"])
    assert made[made.index("--ngram-tables") + 1] == "host"
    assert made[made.index("--moe-overlap-tokens") + 1] == "64"
    assert made[-2:] == ["--", "--dtype=float32"]


def test_engine_command_leaves_out_unset_options(parser: argparse.ArgumentParser, model: str) -> None:
    assert not {"--device", "--ngram-tables", "--moe-overlap-tokens"} & set(command(parser, [model]))


@pytest.mark.parametrize("flag", ["--ngram-tables=disk", "--moe-overlap-tokens=-1"])
def test_add_model_arguments_wrong_values_are_refused(
    parser: argparse.ArgumentParser, model: str, flag: str
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args([model, flag])
