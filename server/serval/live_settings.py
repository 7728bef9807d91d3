"""Settings that may change while a gateway runs: the operator's own keys, default limits, aliases, prices."""

import base64
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from serval.auth.keys import configured_keys
from serval.caller.limits import Limits, default_limits
from serval.caller.prices import Prices, read_prices
from serval.limits.factory import check_daily_budget
from serval.settings import REREAD, Settings, load_settings


class LiveSettings(Struct, frozen=True):
    """The contents of the key file, the settings file and the prices, read again whenever these change.

    A key's use is counted under its index in `keys`, so a withdrawn key leaves "" behind and the others keep
    their index.
    """

    keys: tuple[str, ...]
    limits: Limits
    reserved_completion_tokens: int
    model_aliases: tuple[str, ...]
    prices: Prices = ()

    def __repr__(self) -> str:
        # Keys appear in no log, not even in a traceback.
        return f"LiveSettings({len(self.keys)} keys, {self.limits})"


def read_live_settings(settings: Settings, *, before: LiveSettings | None = None) -> LiveSettings:
    """Read keys and prices and, if `before` is given, reread the settings file. Raises `SettingsError`."""
    if before is not None and settings.settings_file is not None:
        fresh = load_settings(settings_file=settings.settings_file)
        settings = settings.model_copy(update={name: getattr(fresh, name) for name in REREAD})
        check_daily_budget(settings)
    keys = configured_keys(settings)
    return LiveSettings(
        keys=tuple(keys) if before is None else _keep_indices(keys, before.keys),
        limits=default_limits(settings),
        reserved_completion_tokens=settings.reserved_completion_tokens,
        model_aliases=tuple(settings.model_aliases.split()),
        prices=() if settings.prices_file is None else read_prices(settings.prices_file),
    )


def _keep_indices(keys: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """The previous keys at their old indices, followed by the new ones."""
    kept = [key if key in keys else "" for key in before]
    return (*kept, *(key for key in keys if key not in before))


def to_line(live: LiveSettings) -> str:
    """Encode for another process, in one line without spaces."""
    return base64.b64encode(msgspec.msgpack.encode(live)).decode()


def from_line(line: str) -> LiveSettings:
    """The inverse of `to_line`."""
    return msgspec.msgpack.decode(base64.b64decode(line), type=LiveSettings)
