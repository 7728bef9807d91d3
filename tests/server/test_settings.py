"""Precedence of settings: options over SERVAL_* variables over the settings file."""

import os
from pathlib import Path

import pytest

from serval.errors import SettingsError
from serval.settings import Settings, child_environment, load_settings, setting_sources


def test_options_override_variables_and_variables_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVAL_PORT", "1234")
    monkeypatch.setenv("SERVAL_HOST", "0.0.0.0")  # noqa: S104
    settings = load_settings(port=99, host=None)
    assert (settings.port, settings.host) == (99, "0.0.0.0")  # noqa: S104
    assert settings.max_choices == Settings.model_fields["max_choices"].default


def test_invalid_value_is_named_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVAL_PORT", "canary")
    with pytest.raises(SettingsError, match="port") as error:
        load_settings()
    assert "canary" not in str(error.value)


def test_variables_override_the_file_and_options_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('host = "::1"\nport = 1\nmax_batch = 2\nsegment_cache_bytes = 3\n')
    monkeypatch.setenv("SERVAL_SETTINGS_FILE", str(file))
    monkeypatch.setenv("SERVAL_PORT", "4")
    monkeypatch.setenv("SERVAL_MAX_BATCH", "5")
    settings = load_settings(max_batch=6)
    assert (settings.host, settings.port, settings.max_batch) == ("::1", 4, 6)
    assert settings.segment_cache_bytes == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port port", "line 1"),
        ('port = "canary"', "port"),
        ("ports = 1", "unknown setting 'ports'; did you mean port?"),
        ("SERVAL_PORT = 1", "unknown setting 'SERVAL_PORT'; did you mean port?"),
        ("foo = 1", "unknown setting 'foo'; `serval config show` lists them"),
        (None, "No such file"),
    ],
)
def test_invalid_settings_file_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "settings.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsError, match=r"settings\.toml") as error:
        load_settings(settings_file=file)
    assert says in str(error.value)
    assert "canary" not in str(error.value)


def test_child_inherits_the_settings_but_reads_limits_from_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("port = 1\nrequests_per_minute = 2\n")
    monkeypatch.setenv("SERVAL_TOKENS_PER_MINUTE", "3")
    settings = load_settings(settings_file=file, host="::1")
    environment = child_environment(settings)
    given = {name: value for name, value in environment.items() if name.startswith("SERVAL_")}
    for name in set(os.environ) - set(given):
        assert not name.startswith("SERVAL_")
    assert "SERVAL_REQUESTS_PER_MINUTE" not in given
    assert given["SERVAL_PORT"] == "1"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    file.write_text("port = 9\nrequests_per_minute = 9\ntokens_per_minute = 9\n")
    child = load_settings()
    assert (child.port, child.host) == (1, "::1")
    assert (child.requests_per_minute, child.tokens_per_minute) == (9, 3)


def test_otlp_variable_of_all_programs_counts_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://common")
    assert load_settings().otlp_endpoint == "http://common"
    file = tmp_path / "settings.toml"
    file.write_text('otlp_endpoint = "http://file"\n')
    assert load_settings(settings_file=file).otlp_endpoint == "http://file"
    assert setting_sources(file)["otlp_endpoint"] == f"settings file {file}"


def test_child_does_not_inherit_variables_that_nothing_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent has named them; otherwise each child would do so again."""
    monkeypatch.setenv("SERVAL_PROT", "1")
    monkeypatch.setenv("SERVAL_NGRAM_TABLES", "host")
    environment = child_environment(load_settings())
    assert "SERVAL_PROT" not in environment
    assert environment["SERVAL_NGRAM_TABLES"] == "host"


def test_settings_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
