"""Commands of the engine's package: help, exit codes and import path."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from serval.cli import ENGINE_COMMANDS, main
from serval.process.stack import StackSpec
from serval_testkit.gateway import DEMO_CHECKPOINT


def serval(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "serval", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("checkpoint", "--help"), "usage: serval checkpoint [-h] COMMAND ..."),
        (("checkpoint", "tiny", "--help"), "--emb-neighbor-num"),
        (("plan", "-h"), "--gpu-memory-gib"),
        (("context", "-h"), "usage: serval context [-h] [--gpu-memory-gib GIB]"),
        (("engine", "--help"), "usage: serval engine [-h] [--check] [--model DIR]"),
    ],
)
def test_engine_command_help_is_its_own(arguments: tuple[str, ...], shown: str) -> None:
    result = serval(*arguments)
    assert result.returncode == 0
    assert shown in result.stdout


def test_engine_command_exit_code_is_returned() -> None:
    codes = [
        serval("plan", "--gpu-memory-gib", gib, "--dtype", "fp8").returncode for gib in ("141", "8", "none")
    ]
    assert codes == [0, 1, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "--gpu-memory-gib", "80"),
        ("checkpoint", "inspect", str(DEMO_CHECKPOINT)),
        ("checkpoint", "inspect", str(DEMO_CHECKPOINT), "--json"),
        ("config", "show"),
        ("config", "show", "--json"),
    ],
)
def test_command_whose_reader_has_gone_ends_as_by_sigpipe_and_in_silence(arguments: tuple[str, ...]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-P", "-m", "serval", *arguments]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_engine_command_ignores_code_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('code of the checkpoint was run')")
    result = serval("checkpoint", "inspect", ".", directory=tmp_path)
    assert "json.py: code" in result.stdout
    assert "code of the checkpoint was run" not in result.stderr


def test_engine_command_arguments_are_passed_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[Any] = []
    monkeypatch.setattr("os.execv", lambda path, command: replaced.append((path, command)))
    arguments = ["verify-hash", "--", "-a folder-", "--help", ""]
    # Unlike execv(), the stand-in returns, to a parser that does not know these arguments.
    with pytest.raises(SystemExit):
        main(["checkpoint", *arguments])
    expected = [sys.executable, "-P", "-m", ENGINE_COMMANDS["checkpoint"][0], *arguments]
    assert replaced == [(sys.executable, expected)]


def test_servers_ignore_code_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The engine and the gateway, however they are started."""
    (tmp_path / "config.json").write_text("{}")
    started: list[Any] = []

    def execv(path: str, command: list[str]) -> NoReturn:
        started.append(command)
        raise SystemExit

    monkeypatch.setattr("os.execv", execv)
    monkeypatch.setenv("SERVAL_API_KEY", "sk-serval-0123456789abcdef0123456789abcdef")

    async def run_stack(spec: StackSpec, **_: Any) -> int:
        started.extend([spec.engines[0].argv, spec.gateway.argv])
        return 0

    monkeypatch.setattr("serval.cli.serve.require_no_mistakes", lambda _: None)
    monkeypatch.setattr("serval.cli.serve.run_stack", run_stack)
    with pytest.raises(SystemExit):
        main(["engine", "--model", str(tmp_path)])
    assert main(["serve", "--model", str(tmp_path)]) == 0
    assert [command[:4] for command in started] == [
        [sys.executable, "-P", "-m", "serval_sglang.launch"],
        [sys.executable, "-P", "-m", "serval_sglang.launch"],
        [sys.executable, "-P", "-m", "serval"],
    ]


def test_serve_gives_the_engine_a_port_below_those_of_connections(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    ports: set[int] = set()

    async def run_stack(spec: StackSpec, **_: Any) -> int:
        ports.add(int(spec.engines[0].argv[spec.engines[0].argv.index("--port") + 1]))
        return 0

    monkeypatch.setattr("serval.cli.serve.require_no_mistakes", lambda _: None)
    monkeypatch.setattr("serval.cli.serve.run_stack", run_stack)
    for _ in range(20):
        assert main(["serve", "--model", str(tmp_path)]) == 0
    # SGLang takes its own from 22,000 on, the system gives connections those from 32,768 on.
    assert all(10_000 <= port < 22_000 for port in ports)
    assert len(ports) > 1


@pytest.mark.parametrize("command", ["gateway", "serve"])
def test_servers_name_unknown_variables_at_their_start(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    children: list[Any] = []

    async def run_stack(spec: StackSpec, **_: Any) -> int:
        children.append(spec.gateway.environment)
        return 0

    monkeypatch.setattr("serval.cli.serve.run_stack", run_stack)
    monkeypatch.setattr("serval.cli.serve.require_no_mistakes", lambda _: None, raising=False)
    monkeypatch.setattr("serval.process.gateway.run_gateway", lambda settings: None)
    monkeypatch.setenv("SERVAL_PROT", "9000")
    assert main([command]) == 0
    first, *_, last = capsys.readouterr().err.splitlines()
    says = "SERVAL_PROT is set, but there is no such setting; did you mean SERVAL_PORT?"
    assert first == f"serval {command}: warning: {says}"
    assert last == f"serval {command}: stopped"
    # The gateway of `serve` does not say so again.
    assert not any("SERVAL_PROT" in environment for environment in children)


@pytest.mark.parametrize("command", ["engine", "serve"])
def test_servers_refuse_their_own_flags_after_the_dashes(command: str) -> None:
    done = serval(command, "--", "--port", "9")
    assert done.returncode == 2
    assert "--port is not passed on to SGLang: give it before the --" in done.stderr


def test_engine_command_without_the_engine_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for command in ENGINE_COMMANDS:
        assert main([command, "--help"]) == 1
        assert f"serval {command}: error: the engine is not installed here" in capsys.readouterr().err


def test_serve_without_the_engine_package_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "serval_sglang.options", None)
    assert main(["serve", "--help"]) == 1
    assert "serval serve: error: the engine is not installed here" in capsys.readouterr().err


def test_serve_help_loads_neither_torch_nor_sglang() -> None:
    program = (
        "import sys; from serval.cli import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: assert 'serval_sglang.options' in sys.modules\n"
        "sys.exit(bool({'torch', 'sglang', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--ngram-tables" in done.stdout


def test_help_lists_engine_commands() -> None:
    listed = serval("--help").stdout
    for command, (_, summary) in ENGINE_COMMANDS.items():
        assert f"    {command}" in listed
        assert summary in listed
