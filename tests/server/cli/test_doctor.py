"""`serval doctor`: reports missing and present parts, and never a secret."""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import serval.doctor.gateway
import serval.doctor.packages
from serval.cli import main
from serval.doctor import Finding
from serval.settings import Settings
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.redis_server import running_redis
from serval_testkit.stand_in_engine import StandInEngine

CHECKS = [
    "python",
    "sglang",
    "plugin",
    "gpu",
    "flashinfer",
    "cuda compiler",
    "variables",
    "port",
    "keys",
    "key database",
    "limits",
    "identity provider",
    "engine",
    "model folder",
]


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the findings the same on every machine."""
    monkeypatch.setenv("SERVAL_PORT", "0")
    monkeypatch.setattr("shutil.which", lambda name: None)


def states(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    code = main(["doctor", "--json", *arguments])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return code, {entry["check"]: (entry["state"], entry["says"]) for entry in found}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def doctor(*options: str) -> tuple[int | None, list[str]]:
    """Return the exit code and the lines of the command, in a process with an event loop of its own."""
    code = "import sys; from serval.cli import main; sys.exit(main())"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "doctor", *options, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode().splitlines()


async def test_doctor_names_the_state_of_each_engine() -> None:
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as engine:
        away = f"http://127.0.0.1:{free_port()}"
        named = [url.removeprefix("http://") for url in (engine.url, away)]
        code, lines = await doctor("--engine-url", engine.url, "--engine-url", away)
        line = lines[CHECKS.index("engine")]
        assert (code, line.split()[0]) == (0, "warning")
        assert line.endswith(f"; {named[0]} ready, {named[1]} unknown")
        engine.ready = False
        code, lines = await doctor("--engine-url", f"{engine.url},{away}")
        line = lines[CHECKS.index("engine")]
        assert (code, line.split()[0]) == (1, "failed")
        assert line.endswith(f"none of the engines is ready: {named[0]} loading, {named[1]} unknown")


async def test_doctor_passes_with_an_engine(tmp_path: Path) -> None:
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as engine:
        code, lines = await doctor("--engine-url", engine.url)
    assert code == 0, lines
    assert [line[9:27].strip() for line in lines] == CHECKS
    assert "context of 8192 tokens" in lines[CHECKS.index("engine")]
    assert lines[-1].startswith("ok")


def test_doctor_engine_away_fails_except_before_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code, found = states(capsys, "--engine-url", url)
    assert code == 1
    assert found["engine"][0] == "failed"
    assert url in found["engine"][1]
    assert list(found) == CHECKS
    monkeypatch.setenv("SERVAL_MODEL", str(DEMO_CHECKPOINT))
    code, found = states(capsys, "--engine-url", url, "--before-start")
    assert code == 0
    assert "engine" not in found
    assert found["model folder"][0] == "ok"


@pytest.mark.parametrize(
    ("variables", "check", "state", "says"),
    [
        ({"SERVAL_MODEL": "/does/not/exist"}, "model folder", "failed", "/does/not/exist"),
        ({"SERVAL_API_KEY": " "}, "keys", "failed", "SERVAL_API_KEY"),
        ({"SERVAL_API_KEY_FILE": "/does/not/exist"}, "keys", "failed", "/does/not/exist"),
        ({"SERVAL_API_KEY": "k"}, "keys", "ok", ""),
        ({}, "keys", "warning", "no key is set"),
        ({"SERVAL_KEY_DATABASE": "/does/not/exist.db"}, "key database", "failed", "mkdir -p /does/not"),
        ({"SERVAL_KEY_DATABASE": "/does-not-exist.db"}, "key database", "warning", "does not exist yet"),
        ({"SERVAL_QUEUE_LIMITS": "1"}, "variables", "warning", "did you mean SERVAL_QUEUE_LIMIT?"),
        ({"SERVAL_NGRAM_TABLES": "host"}, "variables", "ok", ""),
        ({"SERVAL_KEY_DATABASE": "mysql://host/x"}, "key database", "failed", ""),
        ({"SERVAL_ADMIN_PORT": "0"}, "key database", "ok", "none is set"),
        ({"SERVAL_OIDC_ISSUER": "https://i"}, "identity provider", "failed", "SERVAL_OIDC_AUDIENCE"),
    ],
)
def test_doctor_names_the_problem(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    check: str,
    state: str,
    says: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, found = states(capsys, "--before-start")
    assert found[check][0] == state
    assert says in found[check][1]
    assert code == (1 if state == "failed" else 0)


def test_doctor_port_in_use_fails_before_the_start_and_warns_beside_a_running_gateway(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("SERVAL_PORT", str(port))
        code, found = states(capsys, "--before-start")
        assert code == 1
        assert found["port"][0] == "failed"
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in found["port"][1]
        _, found = states(capsys, "--engine-url", f"http://127.0.0.1:{port}")
        assert found["port"][0] == "warning"
    _, found = states(capsys, "--before-start")
    assert found["port"][0] == "ok"


def test_doctor_reads_the_settings_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "serval.toml"
    file.write_text('key_database = "/does/not/exist.db"\n')
    _, found = states(capsys, "--before-start", "--settings-file", str(file))
    assert found["key database"][0] == "failed"


def test_doctor_other_sglang_fails_and_a_missing_one_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.5.22")
    assert serval.doctor.packages.sglang() == Finding(
        "sglang", "failed", "0.5.22 is installed, 0.5.23 is needed"
    )


def test_doctor_writes_to_redis() -> None:
    with running_redis() as server:
        settings = Settings(limits_url=SecretStr(server.url), limits_timeout_s=5)
        assert serval.doctor.gateway.limits(settings).state == "ok"
        server.kill()
        assert serval.doctor.gateway.limits(settings).state == "failed"


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_doctor_shows_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    port = free_port()
    secrets = {
        "SERVAL_API_KEY": "canary-1",
        "SERVAL_ENGINE_API_KEY": "canary-2",
        "SERVAL_ADMIN_KEY": "canary-3",
        "SERVAL_KEY_PEPPER": "canary-4",
        "SERVAL_SEAL_SECRET": "canary-8-" * 4,
        "SERVAL_CONSOLE_CODE": "canary-a-" * 4,
        "SERVAL_CONSOLE_OIDC_CLIENT_SECRET": "canary-0",
        "SERVAL_BUDGET_WEBHOOK": "https://hooks.example/canary-9",
        "SERVAL_KEY_DATABASE": f"postgresql://user:canary-5@127.0.0.1:{port}/db",  # not-a-secret: a canary
        "SERVAL_LIMITS_URL": f"redis://:canary-7@127.0.0.1:{port}",  # not-a-secret: a canary
        "SERVAL_ENGINE_URL": f"http://user:canary-6@127.0.0.1:{port}",  # not-a-secret: a canary
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    assert main(["doctor", *arguments]) == 1
    output = capsys.readouterr()
    assert "canary" not in output.out + output.err


def test_doctor_wrong_option_exits_with_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--nothing"])
    assert caught.value.code == 2


def test_doctor_canaries_cover_every_secret_setting() -> None:
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret == {
        "api_key", "engine_api_key", "admin_key", "key_pepper", "limits_url", "seal_secret", "budget_webhook",
        "console_code", "console_oidc_client_secret",
    }  # fmt: skip
