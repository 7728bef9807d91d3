"""`serval config show`."""

import json
from pathlib import Path

import pytest

from serval.cli import main
from serval.setting_names import sections, variable_of
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


def entries(output: str) -> dict[str, tuple[str, str]]:
    """Variable -> its section, and the text in parentheses behind its value."""
    found, title = {}, ""
    lines = output.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line and not following:
            title = line if not line.startswith(" ") else title
        elif line.startswith("SERVAL_"):
            found[line.split(" = ")[0]] = (title, line[line.rindex("(") + 1 : -1])
    return found


def test_config_show_groups_settings_and_names_the_source_of_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "serval.toml"
    file.write_text('queue_limit = 7\napi_key = "canary-8"\nrequests_per_minute = 3\n')
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert main(["config", "show", "--settings-file", str(file)]) == 0
    out = capsys.readouterr().out
    assert "canary" not in out
    shown = entries(out)
    assert list(shown) == [variable_of(name) for name in Settings.model_fields]
    assert list(dict.fromkeys(title for title, _ in shown.values())) == list(sections(Settings.model_fields))
    assert shown["SERVAL_PORT"] == ("Listening", "default")
    assert shown["SERVAL_SETTINGS_FILE"] == ("Listening", "option --settings-file")
    assert shown["SERVAL_QUEUE_LIMIT"] == ("Queue", f"settings file {file}")
    # The variable wins over the file.
    assert shown["SERVAL_API_KEY"] == ("Keys", "variable SERVAL_API_KEY")
    live = f"settings file {file}; read again when it changes"
    assert shown["SERVAL_REQUESTS_PER_MINUTE"] == ("Limits of keys", live)
    assert shown["SERVAL_OTLP_ENDPOINT"][1] == "variable OTEL_EXPORTER_OTLP_ENDPOINT"
    monkeypatch.setenv("SERVAL_SETTINGS_FILE", str(file))
    assert main(["config", "show"]) == 0
    shown = entries(capsys.readouterr().out)
    assert shown["SERVAL_SETTINGS_FILE"][1] == "variable SERVAL_SETTINGS_FILE"
    assert shown["SERVAL_QUEUE_LIMIT"][1] == f"settings file {file}"


def test_config_show_describes_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (place,) = (place for place, line in enumerate(lines) if line.startswith("SERVAL_API_KEY = "))
    assert lines[place + 1].strip() == Settings.model_fields["api_key"].description
    assert "one is made at each start" in lines[place + 1]


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_config_show_warns_of_unknown_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("SERVAL_PROT", "canary-9")
    monkeypatch.setenv("SERVAL_CACHE_DIR", "/somewhere")
    assert main(["config", "show", *arguments]) == 0
    output = capsys.readouterr()
    says = "SERVAL_PROT is set, but there is no such setting; did you mean SERVAL_PORT?"
    assert output.err == f"serval config: warning: {says}\n"
    assert "PROT" not in output.out


def test_config_show_invalid_setting_exits_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVAL_PORT", "many")
    assert main(["config", "show"]) == 1
    assert "port" in capsys.readouterr().err
