"""What may change while a gateway runs: the operator's own keys, and the limits of keys that have none."""

import base64
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from serval.auth.keys import configured_keys
from serval.caller.limits import Limits, default_limits
from serval.limits.factory import check_daily_budget
from serval.settings import REREAD, Settings, load_settings


class LiveSettings(Struct, frozen=True):
    """Read from the key file and the settings file, again whenever these change.

    `keys` by place: what a key uses is counted under its place, and its place stays. "" where one was
    withdrawn.
    """

    keys: tuple[str, ...]
    limits: Limits
    reserved_completion_tokens: int

    def __repr__(self) -> str:
        # Keys are in no log, not even in a traceback.
        return f"LiveSettings({len(self.keys)} keys, {self.limits})"


def read_live_settings(settings: Settings, *, before: LiveSettings | None = None) -> LiveSettings:
    """What the settings and the key file say now; with `before`, the settings file is read again too.

    Raises `SettingsError` if any of it cannot be used.
    """
    if before is not None and settings.settings_file is not None:
        fresh = load_settings(settings_file=settings.settings_file)
        settings = settings.model_copy(update={name: getattr(fresh, name) for name in REREAD})
        check_daily_budget(settings)
    keys = configured_keys(settings)
    return LiveSettings(
        keys=tuple(keys) if before is None else _keep_indices(keys, before.keys),
        limits=default_limits(settings),
        reserved_completion_tokens=settings.reserved_completion_tokens,
    )


def _keep_indices(keys: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """The keys that were there in their places, behind them the new ones."""
    stay = [key if key in keys else "" for key in before]
    return (*stay, *(key for key in keys if key not in before))


def to_line(live: LiveSettings) -> str:
    """For another process, in one line without spaces."""
    return base64.b64encode(msgspec.msgpack.encode(live)).decode()


def from_line(line: str) -> LiveSettings:
    """The inverse of `to_line`."""
    return msgspec.msgpack.decode(base64.b64decode(line), type=LiveSettings)
