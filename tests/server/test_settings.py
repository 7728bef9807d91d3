"""Settings come from SERVAL_* and from options, which win."""

import pytest

from serval.errors import SettingsError
from serval.settings import Settings, load_settings


def test_options_win_over_variables_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVAL_PORT", "1234")
    monkeypatch.setenv("SERVAL_HOST", "0.0.0.0")  # noqa: S104
    settings = load_settings(port=99, host=None)
    assert (settings.port, settings.host) == (99, "0.0.0.0")  # noqa: S104
    assert settings.max_choices == Settings.model_fields["max_choices"].default


def test_a_bad_value_is_named_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVAL_PORT", "canary")
    with pytest.raises(SettingsError, match="port") as error:
        load_settings()
    assert "canary" not in str(error.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
