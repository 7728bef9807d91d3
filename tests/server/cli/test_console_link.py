"""The link of `serval serve --console`."""

import stat
from pathlib import Path

import pytest

from serval.cli.console_link import with_console
from serval.errors import SettingsError
from serval.settings import Settings, child_environment


def test_link_has_the_code_and_port_that_the_gateway_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    settings, link = with_console(Settings(console=False), free_port=4711)
    environment = child_environment(settings)
    assert link == f"http://127.0.0.1:4711/console/enter?code={environment['SERVAL_CONSOLE_CODE']}"
    assert environment["SERVAL_ADMIN_PORT"] == "4711"
    assert environment["SERVAL_CONSOLE"] == "True"
    folder = tmp_path / "state" / "serval"
    assert environment["SERVAL_KEY_DATABASE"] == str(folder / "keys.db")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert with_console(settings, free_port=1)[1] != link


def test_settings_that_are_given_stay(tmp_path: Path) -> None:
    given = Settings(admin_port=8002, admin_host="::", key_database=str(tmp_path / "a.db"))
    settings, link = with_console(given, free_port=4711)
    assert link.startswith("http://[::1]:8002/console/enter?code=")
    assert settings.key_database == given.key_database


def test_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serval").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match="cannot be made"):
        with_console(Settings(), free_port=4711)
