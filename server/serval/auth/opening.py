"""Opening what the settings say callers are checked against."""

from typing import TYPE_CHECKING

from serval.auth.authenticator import Authenticator
from serval.auth.identity import ADMIN, INFERENCE
from serval.auth.keys import ApiKeys, configured_keys
from serval.errors import SettingsError
from serval.settings import Settings

if TYPE_CHECKING:
    from serval.auth.directory import KeyDirectory
    from serval.store.key_store import KeyStore


def open_store(settings: Settings) -> "KeyStore":
    """The key database. Raises `SettingsError` if none is set or it cannot be used."""
    if settings.key_database is None:
        raise SettingsError(
            "no key database is set; name one with --database or SERVAL_KEY_DATABASE: a path for SQLite, or"
            " postgresql://USER:PASSWORD@HOST/NAME"
        )
    # These take a third of a second and 20 MB to load.
    from serval.store.database import open_database
    from serval.store.key_store import KeyStore

    pepper = None if settings.key_pepper is None else settings.key_pepper.get_secret_value()
    return KeyStore(open_database(settings.key_database), pepper=pepper)


def open_directory(settings: Settings) -> "KeyDirectory | None":
    """The keys of the database, read; None if there is no database. Raises `SettingsError`."""
    if settings.key_database is None:
        if settings.admin_port is not None:
            raise SettingsError("SERVAL_ADMIN_PORT needs a key database; set SERVAL_KEY_DATABASE too")
        return None
    store = open_store(settings)
    from serval.auth.directory import KeyDirectory

    return KeyDirectory(store, poll_s=settings.key_poll_s, max_stale_s=settings.key_max_stale_s)


def inference_authenticator(settings: Settings, directory: "KeyDirectory | None") -> Authenticator:
    """For clients of the model: the operator's keys and the database's; open if there is neither."""
    return Authenticator(configured_keys(settings), directory, scope=INFERENCE, open_without_keys=True)


def admin_authenticator(settings: Settings, directory: "KeyDirectory | None") -> Authenticator:
    """For the admin API: never open."""
    keys = [] if settings.admin_key is None else [settings.admin_key.get_secret_value().strip()]
    if keys == [""]:
        raise SettingsError("SERVAL_ADMIN_KEY is set but empty; give it a key or unset it")
    return Authenticator(ApiKeys(keys), directory, scope=ADMIN, open_without_keys=False)
