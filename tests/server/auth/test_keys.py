"""API keys."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from serval.auth.factory import admin_authenticator, inference_authenticator
from serval.auth.keys import ApiKeys, configured_keys, read_key_file
from serval.errors import AuthenticationError, SettingsError
from serval.settings import Settings


def test_every_key_of_file_and_variable_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# comment\n\n one \ntwo\n")
    keys = ApiKeys(configured_keys(Settings(api_key=SecretStr("three"), api_key_file=file)))
    for key in ("one", "two", "three"):
        assert keys.accepts(key)
    assert not keys.accepts("# comment")


async def test_without_keys_everyone_may_use_the_model_and_nobody_the_admin_api() -> None:
    assert (await inference_authenticator(Settings(), [], None).identify(None)).scopes == {"inference"}
    with pytest.raises(AuthenticationError):
        await admin_authenticator(Settings(), None).identify("Bearer anything")


def test_keys_are_not_kept_in_the_clear() -> None:
    keys = ApiKeys(["very-secret"])
    assert "very-secret" not in repr(vars(keys))


async def test_the_error_does_not_repeat_the_key() -> None:
    with pytest.raises(AuthenticationError) as error:
        await inference_authenticator(Settings(), ["right"], None).identify("Bearer sk-wrong-key")
    assert "sk-wrong-key" not in str(error.value)


def test_a_key_file_without_keys_is_refused_and_not_taken_for_an_open_server(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# nothing here\n")
    with pytest.raises(SettingsError, match="holds no key"):
        read_key_file(file)


def test_settings_do_not_show_keys() -> None:
    settings = Settings(api_key=SecretStr("very-secret"), engine_api_key=SecretStr("other-secret"))
    assert "secret" not in repr(settings) + str(settings.model_dump())
