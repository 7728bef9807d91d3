"""The engine's options: parsed flags, and the command line that carries them to the launcher."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from serval_sglang.options import (
    DEMO_MODEL,
    DEMO_MODEL_NAME,
    EngineOptions,
    ModelFolderError,
    command_line,
    configure,
    engine_options,
)


def parsed(arguments: list[str]) -> EngineOptions:
    parser = argparse.ArgumentParser()
    configure(parser)
    args = parser.parse_args(arguments)
    return engine_options(args, host=args.host, port=args.port)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_engine_options_defaults_serve_the_demo_model_on_loopback() -> None:
    assert parsed([]) == EngineOptions(
        model=DEMO_MODEL, served_model_name=DEMO_MODEL_NAME, host="127.0.0.1", port=30000, sglang_flags=[]
    )


def test_engine_options_name_the_model_by_its_folder(model: Path) -> None:
    assert parsed([f"--model={model}"]).served_model_name == model.name


def test_engine_options_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"holds no config\.json"):
        parsed([f"--model={tmp_path}"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--tp=2", "--ep", "2", "--device=cuda", "--", "--dtype", "float32", "--enable-metrics"],
        [
            "--ngram-tables=host",
            "--moe-overlap-tokens=0",
            "--served-model-name=a b",
            "--host=::1",
            "--port=1",
        ],
    ],
)
def test_command_line_is_read_back_as_the_same_options(model: Path, arguments: list[str]) -> None:
    options = parsed([f"--model={model}", *arguments])
    assert parsed(command_line(options)) == options
