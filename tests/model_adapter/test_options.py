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
    flag_value,
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
            "--mtp-steps=3",
            "--mtp-fixed",
            "--no-grammar-drafts",
            "--served-model-name=a b",
            "--host=::1",
            "--port=1",
        ],
    ],
)
def test_command_line_is_read_back_as_the_same_options(model: Path, arguments: list[str]) -> None:
    options = parsed([f"--model={model}", *arguments])
    assert parsed(command_line(options)) == options


OWN_FLAGS = {
    "--speculative-algorithm NGRAM": "give --mtp-steps before the --",
    "--speculative-eagle-topk=2": "give --mtp-steps before the --",
    "--speculative-num-steps 5": "give --mtp-steps before the --",
    "--speculative-num-draft-tokens=9": "give --mtp-steps before the --",
    "--speculative-draft-model-path=/m": "give --mtp-steps before the --",
    "--port 9": "give it before the --",
    "--port=9": "give it before the --",
    "--por=9": "give it before the --",
    "--host 0.0.0.0": "give it before the --",
    "--model-path /m": "give --model before the --",
    "--model=/m": "give it before the --",
    "--served-model-name m": "give it before the --",
    "--tokenizer-path=/m": "the tokenizer is the one in --model's folder",
    "--skip-tokenizer-init": "the gateway reads the text",
    "--api-key=secret": "set SERVAL_ENGINE_API_KEY",
    "--admin-api-key secret": "with SERVAL_ENGINE_API_KEY",
    "--device cpu": "give it before the --",
    "--tp 2": "give --tp before the --",
    "--tp-size=2": "give --tp before the --",
    "--tensor-parallel-size 2": "give --tp before the --",
    "--ep=2": "give it before the --",
    "--expert-parallel 2": "give --ep before the --",
}


@pytest.mark.parametrize("flag", OWN_FLAGS)
def test_flags_that_serval_sets_are_refused_after_the_dashes(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    """With `serval serve -- --port N` the engine would listen where no gateway looks for it."""
    with pytest.raises(SystemExit) as exit_:
        parsed(["--", "--dtype=float32", *flag.split()])
    assert exit_.value.code == 2
    name = flag.replace("=", " ").split()[0]
    complaint = capsys.readouterr().err
    assert f"{name} is not passed on to SGLang: {OWN_FLAGS[flag]}" in complaint
    assert "secret" not in complaint


@pytest.mark.parametrize(
    "flags",
    [
        ["--model-impl", "auto"],
        ["--dist-init-addr=10.0.0.1:5000", "--nnodes=2", "--node-rank=1"],
        ["--enable-dp-attention", "--dp-size", "2"],
        ["--hicache-size=1"],
        ["--log-level", "--"],
        ["--chunked-prefill-size", "-1"],
        [""],
    ],
    ids=str,
)
def test_other_flags_are_passed_on_to_sglang(flags: list[str]) -> None:
    assert parsed(["--", *flags]).sglang_flags == flags


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ([], None),
        (["--a", "1"], "1"),
        (["--a=1"], "1"),
        (["--a", "1", "--a=2"], "2"),
        (["--other", "1"], "1"),
        (["--ab=1"], None),
        (["--a"], None),
    ],
)
def test_flag_value_takes_the_last(flags: list[str], value: str | None) -> None:
    assert flag_value(flags, "--a", "--other") == value


def test_machine_part_is_carried_to_the_launcher(model: Path) -> None:
    options = parsed([f"--model={model}", "--machine-part", "1/2"])
    assert parsed(command_line(options)) == options
    args = argparse.Namespace(model=model, served_model_name=None)
    assert engine_options(args, host="h", port=1, part="1/2").machine_part == options.machine_part
