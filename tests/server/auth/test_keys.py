"""The operator's API keys."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from serval.auth.factory import admin_authenticator, inference_authenticator
from serval.auth.keys import ApiKeys, configured_keys, read_key_file
from serval.errors import AuthenticationError, SettingsError
from serval.settings import Settings


def test_configured_keys_of_file_and_variable_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# comment\n\n one \ntwo\n")
    keys = ApiKeys(configured_keys(Settings(api_key=SecretStr("three"), api_key_file=file)))
    for key in ("one", "two", "three"):
        assert keys.accepts(key)
    assert not keys.accepts("# comment")


async def test_authenticator_without_keys_is_open_for_inference_and_closed_for_admin() -> None:
    assert (await inference_authenticator(Settings(), [], None).identify(None)).scopes == {"inference"}
    with pytest.raises(AuthenticationError):
        await admin_authenticator(Settings(), None).identify("Bearer anything")


def test_api_keys_are_not_held_in_clear_text() -> None:
    keys = ApiKeys(["very-secret"])
    assert "very-secret" not in repr(vars(keys))


async def test_identify_error_does_not_contain_the_key() -> None:
    with pytest.raises(AuthenticationError) as error:
        await inference_authenticator(Settings(), ["right"], None).identify("Bearer sk-wrong-key")
    assert "sk-wrong-key" not in str(error.value)


def test_read_key_file_without_keys_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# nothing here\n")
    with pytest.raises(SettingsError, match="holds no key"):
        read_key_file(file)


def test_settings_repr_does_not_show_keys() -> None:
    settings = Settings(api_key=SecretStr("very-secret"), engine_api_key=SecretStr("other-secret"))
    assert "-secret" not in repr(settings) + str(settings.model_dump())
