"""`serval config show`."""

import json

import pytest

from serval.cli import main
from serval.settings import Settings

SECRETS = {
    "SERVAL_API_KEY": "canary-1",
    "SERVAL_ENGINE_API_KEY": "canary-2",
    "SERVAL_ADMIN_KEY": "canary-3",
    "SERVAL_KEY_PEPPER": "canary-4",
    "SERVAL_KEY_DATABASE": "postgresql://user:canary-5@host/db",  # not-a-secret: nobody has it
    "SERVAL_LIMITS_URL": "redis://host?password=canary-7",  # not-a-secret: nobody has it
    "SERVAL_ENGINE_URL": "http://user:canary-6@engine:1",  # not-a-secret: nobody has it
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_config_show_lists_every_setting_and_no_secret(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["config", "show", *arguments]) == 0
    out = capsys.readouterr().out
    assert "canary" not in out
    for name in Settings.model_fields:
        assert (name if arguments else f"SERVAL_{name.upper()} = ") in out


def test_config_show_json_holds_the_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVAL_PORT", "9000")
    assert main(["config", "show", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["port"] == 9000
    assert values["key_database"] == "postgresql://user:********@host/db"
    assert values["served_model_name"] is None


def test_config_show_text_has_source_and_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (place,) = (place for place, line in enumerate(lines) if line.startswith("SERVAL_API_KEY = "))
    assert lines[place].endswith("(set)")
    assert lines[place + 1].strip() == Settings.model_fields["api_key"].description
    assert next(line for line in lines if line.startswith("SERVAL_PORT = ")).endswith("(default)")


def test_config_show_invalid_setting_exits_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVAL_PORT", "many")
    assert main(["config", "show"]) == 1
    assert "port" in capsys.readouterr().err
