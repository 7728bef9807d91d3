"""`serval serve` reports every mistake that can be found without an engine before it starts one."""

import contextlib
import io
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from serval.cli import main
from serval_sglang import launch
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.processes import free_port

KEY = "sk-serval-e2e0-0123456789abcdef0123456789abcdef"
PROGRAMS: Mapping[str, Callable[[Sequence[str]], int]] = {"serval": main, "serval_sglang.launch": launch.main}


class CheckInThisProcess:
    """Takes the place of `subprocess.Popen`, because starting Python would take most of the time."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], **_: Any) -> None:
        _, _, _, module, *arguments = argv
        said = io.StringIO()
        with mock.patch.dict(os.environ, env, clear=True), contextlib.redirect_stderr(said):
            try:
                self.returncode = PROGRAMS[module](arguments)
            except SystemExit as end:
                self.returncode = end.code if isinstance(end.code, int) else 1
                said.write(f"{end.code}\n")
        self.said = said.getvalue()

    def communicate(self) -> tuple[None, str]:
        return None, self.said


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SERVAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SERVAL_API_KEY", KEY)
    monkeypatch.setattr("serval.process.checks.subprocess.Popen", CheckInThisProcess)
    monkeypatch.setattr("serval.cli.serve.run_stack", lambda *_, **__: pytest.fail("an engine was started"))
    monkeypatch.setattr(launch, "supervise", lambda *_: pytest.fail("an engine was started"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "model"))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run `serval serve`, which must fail; return its message."""
    capsys.readouterr()
    try:
        code = main(["serve", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr().err
    assert code in (1, 2), said
    assert "Traceback" not in said
    return said


def rewrite(name: str, **values: Any) -> Callable[[Path], None]:
    """Return a function that changes values of a JSON file; None removes them."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(
            json.dumps({key: value for key, value in content.items() if value is not None})
        )

    return change


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def no_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 1000)


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    rewrite("tokenizer_config.json", chat_template=None)(folder)


INDEX = json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}})
BAD_FOLDERS: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "is not a checkpoint folder"),
    "no config": (remove("config.json"), "it holds no config.json"),
    "config is no JSON": (write("config.json", "{"), "config.json cannot be read: .* files again"),
    "another architecture": (
        rewrite("config.json", architectures=["LlamaForCausalLM"]),
        "is that of a LlamaForCausalLM; Serval serves .*; --model has to name",
    ),
    "no weights": (no_weights, "must hold model.safetensors or .* files again"),
    "truncated weights": (cut("model.safetensors"), "model.safetensors cannot be read .* files again"),
    "a shard is missing": (
        write("model.safetensors.index.json", INDEX),
        "00001-of-00002.safetensors is in the index, but not in the directory; download",
    ),
    "other sizes": (rewrite("config.json", ffn_hidden_size=96), "not of the shape in config.json; download"),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json: missing; copy"),
    "no tokenizer's settings": (remove("tokenizer_config.json"), "tokenizer_config.json: missing; copy"),
    "tokenizer is empty": (write("tokenizer.json", "{}"), "tokenizer.json cannot be loaded"),
    "no chat template": (no_template, "has no chat template: .* Point --model at"),
    "broken chat template": (
        write("chat_template.jinja", "{% if %}"),
        r"chat_template.jinja, line 1: Expected",
    ),
}


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_serve_refuses_a_bad_folder(
    case: str, workers: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = BAD_FOLDERS[case]
    damage(model)
    said = refusal(capsys, "--model", str(model), "--workers", workers, "--port", str(free_port()))
    assert re.search(message, said), said


BAD_SETTINGS: Mapping[str, tuple[Mapping[str, str], str]] = {
    "out of range": ({"SERVAL_QUEUE_LIMIT": "-3"}, "queue_limit: Input should be greater than or equal to 1"),
    "no settings file": (
        {"SERVAL_SETTINGS_FILE": "/absent.toml"},
        "cannot read the settings file '/absent.toml'",
    ),
    "key is empty": ({"SERVAL_API_KEY": ""}, "SERVAL_API_KEY is set but empty; give it a key or unset it"),
    "no key file": ({"SERVAL_API_KEY_FILE": "/absent"}, "cannot read the API key file '/absent'"),
    "no folder of the key database": (
        {"SERVAL_KEY_DATABASE": "/absent/keys.db"},
        "/absent/keys.db cannot be used",
    ),
    "key database is down": (
        {"SERVAL_KEY_DATABASE": "postgresql://user:" + "secret@127.0.0.1:1/keys"},
        r"user:\*\*\*@127.0.0.1:1/keys cannot be used: .*Connection refused",
    ),
    "admin API without database": (
        {"SERVAL_ADMIN_PORT": "0"},
        "needs a key database; set SERVAL_KEY_DATABASE",
    ),
    "OIDC half set": ({"SERVAL_OIDC_ISSUER": "https://issuer"}, "needs SERVAL_OIDC_AUDIENCE and"),
    "URL of Redis": ({"SERVAL_LIMITS_URL": "foo://x"}, "SERVAL_LIMITS_URL is no URL of Redis: redis://"),
    "budget is forgotten": ({"SERVAL_TOKENS_PER_DAY": "9"}, "set SERVAL_KEY_DATABASE too, a path is enough"),
    "place of the tables": ({"SERVAL_NGRAM_TABLES": "disk"}, "must be one of device, host"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_serve_refuses_bad_settings(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables, message = BAD_SETTINGS[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = refusal(capsys, "--port", str(free_port()))
    assert re.search(message, said, re.DOTALL), said
    assert "secret" not in said


def test_serve_refuses_an_empty_admin_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVAL_KEY_DATABASE", str(tmp_path / "keys.db"))
    monkeypatch.setenv("SERVAL_ADMIN_PORT", "0")
    monkeypatch.setenv("SERVAL_ADMIN_KEY", "")
    assert "SERVAL_ADMIN_KEY is set but empty" in refusal(capsys, "--port", str(free_port()))


@pytest.mark.parametrize("option", ["--port", "SERVAL_METRICS_PORT", "SERVAL_ADMIN_PORT"])
def test_serve_refuses_a_taken_port(
    option: str,
    taken_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SERVAL_KEY_DATABASE", str(tmp_path / "keys.db"))
    port = taken_port if option == "--port" else free_port()
    if option != "--port":
        monkeypatch.setenv(option, str(taken_port))
    expected = (
        f"cannot listen on 127.0.0.1:{taken_port}: Address already in use; choose another with {option}"
    )
    assert expected in refusal(capsys, "--port", str(port))


@dataclass(frozen=True)
class Machine:
    """A GPU machine that the checks see: memory in GiB and number of its GPUs."""

    gib: float
    gpus: int


@pytest.mark.parametrize(
    ("machine", "arguments", "message"),
    [
        (Machine(80, 0), "--device cuda", "CUDA shows no GPU here; see nvidia-smi"),
        (Machine(80, 1), "--device cuda --tp 2", "--tp 2 needs 2 GPUs, and CUDA shows 1 here"),
        (Machine(0.01, 1), "--device cuda", "leaves nothing for requests; `serval plan --gpu-memory-gib 0.0"),
        (
            Machine(80, 2),
            "--device cuda --tp 2 --workers 2 -- --mem-fraction-static 0.0001",
            "leaves nothing for requests; `serval plan --gpu-memory-gib 80.0 --gpus 2` lists",
        ),
        (Machine(80, 3), "--device cuda --tp 3", "tp 3 and ep 1 do not suit this model"),
        (
            Machine(80, 3),
            "--device cuda --tp 2 --replicas 2",
            "2 engines with --tp 2 need 4 GPUs, and CUDA shows 3 here",
        ),
        (Machine(80, 2), "--replicas 0", "'0' is not a number from 1 to 64"),
        (Machine(80, 2), "--tp 2 --ep 3", "--ep must divide --tp, got --tp 2 --ep 3"),
        (Machine(80, 2), "-- --port 9", "--port is not passed on to SGLang: give it before the --"),
    ],
)
def test_serve_refuses_a_machine_that_is_too_small(
    machine: Machine,
    arguments: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("serval_sglang.preflight.visible_gpus", lambda: machine.gpus)
    monkeypatch.setattr("serval_sglang.memory_check.gpu_memory_bytes", lambda: round(machine.gib * 2**30))
    monkeypatch.setattr(launch, "compiler_environment", lambda _: {})
    assert message in refusal(capsys, "--port", str(free_port()), *arguments.split())


def test_serve_reports_mistakes_of_gateway_and_engine_together(
    model: Path, taken_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cut("model.safetensors")(model)
    said = refusal(capsys, "--model", str(model), "--port", str(taken_port))
    assert "Address already in use" in said
    assert "model.safetensors cannot be read" in said


def test_serve_with_check_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--check", "--device", "cpu", "--port", str(free_port())]) == 0
    assert "no mistakes found" in capsys.readouterr().err
