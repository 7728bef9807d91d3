"""The console of `serval serve --console`: on a port of its own, with a link that signs in once."""

import secrets

from pydantic import SecretStr

from serval.errors import SettingsError
from serval.settings import Settings, state_folder

_PATH = "/console/enter"


def with_console(settings: Settings, *, free_port: int) -> tuple[Settings, str]:
    """Return settings that serve the console, and the link.

    Where none are set, its port is `free_port`, and keys and usage are kept in the user's state folder.
    Raises `SettingsError` if that cannot be made.
    """
    code = secrets.token_urlsafe(32)
    changes: dict[str, object] = {
        "console": True,
        "console_code": SecretStr(code),
        "admin_port": settings.admin_port or free_port,
    }
    if settings.key_database is None:
        folder = state_folder()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"the folder {str(folder)!r} for keys and usage cannot be made: {error.strerror}; set"
                " SERVAL_KEY_DATABASE, or XDG_STATE_HOME to another folder"
            ) from error
        changes["key_database"] = str(folder / "keys.db")
    changed = settings.model_copy(update=changes)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(changed.admin_host, changed.admin_host)  # noqa: S104  # compared, not bound
    address = f"[{host}]" if ":" in host else host
    return changed, f"http://{address}:{changed.admin_port}{_PATH}?code={code}"
