"""Factory of the key store that the settings name."""

from typing import TYPE_CHECKING

from serval.errors import SettingsError
from serval.settings import Settings

if TYPE_CHECKING:
    from serval.store.key_store import KeyStore


def open_store(settings: Settings) -> "KeyStore":
    """Open the key database. Raises `SettingsError` if none is set or it cannot be used."""
    location = database_location(settings)
    # Imported here: they take a third of a second and 20 MB to load.
    from sqlalchemy.exc import SQLAlchemyError

    from serval.store.database import open_database, reason_of
    from serval.store.key_store import KeyStore

    pepper = None if settings.key_pepper is None else settings.key_pepper.get_secret_value()
    try:
        return KeyStore(open_database(location), pepper=pepper)
    except SQLAlchemyError as error:
        raise SettingsError(f"the key database cannot be used: {reason_of(error)}") from None


def database_location(settings: Settings) -> str:
    """Path or URL of the key database. Raises `SettingsError` if none is set."""
    if settings.key_database is None:
        raise SettingsError(
            "no key database is set; name one with --database or SERVAL_KEY_DATABASE: a path for SQLite, or"
            " postgresql://USER:PASSWORD@HOST/NAME"
        )
    return settings.key_database
