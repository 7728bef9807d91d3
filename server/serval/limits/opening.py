"""Which authority over limits the settings name."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

from serval.errors import SettingsError
from serval.limits.daily_use import DailyUse
from serval.limits.fallback import FallbackLimiter
from serval.limits.gate import Gate
from serval.limits.ledger import Ledger
from serval.limits.limiter import Limiter
from serval.limits.local import LocalLimiter
from serval.limits.quota import default_limits
from serval.limits.remote import RemoteLimiter
from serval.settings import Settings

if TYPE_CHECKING:
    from serval.store.key_store import KeyStore

Keeping = Callable[[], AbstractAsyncContextManager[None]]


def open_gate(settings: Settings, store: "KeyStore | None") -> Gate:
    """The gate of one worker. `store`, the key database, also keeps daily use. Raises `SettingsError`."""
    return Gate(
        _limiter(settings, store),
        defaults=default_limits(settings),
        lease_s=settings.limits_lease_s,
        reserved_completion_tokens=settings.reserved_completion_tokens,
    )


def _limiter(settings: Settings, store: "KeyStore | None") -> Limiter:
    if settings.limits_socket is not None:
        alone = Ledger(DailyUse(), lease_ms=_lease_ms(settings))
        return FallbackLimiter(
            RemoteLimiter(settings.limits_socket),
            alone,
            share=settings.limits_share / settings.workers,
            grace_s=settings.limits_grace_s,
        )
    ledger, keeping = kept_ledger(settings, store)
    return LocalLimiter(ledger, keeping=keeping)


def kept_ledger(settings: Settings, store: "KeyStore | None") -> tuple[Ledger, Keeping]:
    """New books, and what keeps their daily use in the key database. Raises `SettingsError`."""
    if settings.tokens_per_day is not None and store is None:
        raise SettingsError(
            "SERVAL_TOKENS_PER_DAY needs a place where a restart finds what was used; set SERVAL_KEY_DATABASE"
            " too, a path is enough"
        )
    daily = DailyUse()

    def keeping() -> AbstractAsyncContextManager[None]:
        if store is None:
            return nullcontext()
        # SQLAlchemy is loaded only where there is a database.
        from serval.limits.keeping import DailyKeeper
        from serval.store.daily_tokens import DailyTokens

        return DailyKeeper(daily, DailyTokens(store.engine)).keeping()

    return Ledger(daily, lease_ms=_lease_ms(settings)), keeping


def _lease_ms(settings: Settings) -> int:
    return int(settings.limits_lease_s * 1000)
