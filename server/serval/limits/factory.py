"""Factories of the gate and the ledger that the settings describe."""

import importlib.util
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

from serval.caller.limits import default_limits
from serval.errors import SettingsError
from serval.limits.client import LimiterClient
from serval.limits.daily_use import DailyUse
from serval.limits.fallback import FallbackLimiter
from serval.limits.gate import Gate
from serval.limits.ledger import Ledger
from serval.limits.limiter import Limiter, SharedLimiter
from serval.limits.local import LocalLimiter
from serval.settings import Settings

if TYPE_CHECKING:
    from serval.store.key_store import KeyStore

Persistence = Callable[[], AbstractAsyncContextManager[None]]


def open_gate(settings: Settings, store: "KeyStore | None") -> Gate:
    """The gate of one worker. `store`, the key database, also saves daily use. Raises `SettingsError`."""
    return Gate(
        _limiter(settings, store),
        defaults=default_limits(settings),
        lease_s=settings.limits_lease_s,
        reserved_completion_tokens=settings.reserved_completion_tokens,
    )


def _limiter(settings: Settings, store: "KeyStore | None") -> Limiter:
    shared: SharedLimiter
    if settings.limits_url is not None:
        shared = _redis_limiter(settings, settings.limits_url.get_secret_value())
    elif settings.limits_socket is not None:
        shared = LimiterClient(settings.limits_socket)
    else:
        ledger, persistence = open_ledger(settings, store)
        return LocalLimiter(ledger, persistence=persistence)
    return FallbackLimiter(
        shared,
        Ledger(DailyUse(), lease_ms=_lease_ms(settings)),
        share=settings.limits_share / settings.workers,
        grace_s=settings.limits_grace_s,
    )


def _redis_limiter(settings: Settings, url: str) -> SharedLimiter:
    require_redis()
    from serval.limits.redis_limiter import RedisLimiter, open_redis

    timeout_s = settings.limits_timeout_s
    return RedisLimiter(
        open_redis(url, timeout_s=timeout_s), lease_ms=_lease_ms(settings), timeout_s=timeout_s
    )


def require_redis() -> None:
    """Raise `SettingsError` unless the package that `serval.limits.redis_limiter` needs is installed."""
    if importlib.util.find_spec("redis") is None:
        raise SettingsError(
            "SERVAL_LIMITS_URL needs the package redis; install it with: pip install 'serval-llm[redis]'"
        )


def check_daily_budget(settings: Settings) -> None:
    """Raise `SettingsError` for a daily budget without a place to save its use."""
    kept = settings.key_database is not None or settings.limits_url is not None
    if settings.tokens_per_day is not None and not kept:
        raise SettingsError(
            "SERVAL_TOKENS_PER_DAY needs a place where a restart finds what was used; set SERVAL_KEY_DATABASE"
            " too, a path is enough"
        )


def open_ledger(settings: Settings, store: "KeyStore | None") -> tuple[Ledger, Persistence]:
    """A ledger, and the persistence of its daily use in the key database. Raises `SettingsError`."""
    check_daily_budget(settings)
    daily = DailyUse()

    def persistence() -> AbstractAsyncContextManager[None]:
        if store is None:
            return nullcontext()
        # SQLAlchemy is loaded only where there is a database.
        from serval.limits.persistence import DailyUsePersister
        from serval.store.daily_tokens import DailyTokens

        return DailyUsePersister(daily, DailyTokens(store.engine)).lifespan()

    return Ledger(daily, lease_ms=_lease_ms(settings)), persistence


def _lease_ms(settings: Settings) -> int:
    return int(settings.limits_lease_s * 1000)
