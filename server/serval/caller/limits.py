"""Limits of a key: its own, as stored, and those in force."""

from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct

from serval.caller.budgets import Budget, Budgets
from serval.settings import Settings

UNLIMITED: Final = 0
# Keeps counts exact in Redis, whose scripts have doubles only.
MAX_LIMIT: Final = 10**9


_WORDS: Final[dict[int | None, str]] = {UNLIMITED: "unlimited", None: "default"}


@dataclass(frozen=True)
class KeyLimits:
    """A key's own limits. None: the default of the settings; `UNLIMITED`: no limit, whatever the default."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None

    def as_object(self) -> dict[str, Any]:
        """The limits as people and programs read them: a number, 'unlimited' or 'default'."""
        return {name: _WORDS.get(value, value) for name, value in asdict(self).items()}

    def changed(self, **changes: int | None) -> "KeyLimits":
        """A copy with some limits replaced."""
        return replace(self, **changes)


def limit_of(given: int | str) -> int | None:
    """The stored value of a limit as people and programs write it: a number, 'unlimited' or 'default'."""
    if isinstance(given, int):
        return given
    return {word: value for value, word in _WORDS.items()}[given]


DEFAULT_LIMITS: Final = KeyLimits()
LIMIT_NAMES: Final = tuple(field.name for field in fields(KeyLimits))


class Limits(Struct, frozen=True, array_like=True):
    """The limits in force for a key or a team. None: unlimited. Days are UTC days."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    budgets: Budgets = ()

    @property
    def unlimited(self) -> bool:
        """True if there is no limit to count against."""
        return self == _NONE

    @property
    def requests(self) -> int | None:
        """The largest number of requests that a single call may make; None: any number."""
        return _smaller(self.requests_per_minute, self.concurrent_requests)

    @property
    def tokens(self) -> int | None:
        """The largest number of tokens that a single call may reserve; None: any number."""
        most = _smaller(self.tokens_per_minute, self.tokens_per_day)
        for budget in self.budgets:
            if budget.unit == "tokens":
                most = _smaller(most, budget.hard)
        return most

    @property
    def limits_tokens(self) -> bool:
        """True if there is a limit of tokens or costs."""
        return not (self.tokens_per_minute is self.tokens_per_day is None and not self.budgets)

    @property
    def counted(self) -> Budgets:
        """All budgets, with the tokens a day as one of them."""
        return self.budgets if self.tokens_per_day is None else _with_day(self.tokens_per_day, self.budgets)

    @property
    def of_requests(self) -> "Limits":
        """The limits of requests alone."""
        return Limits(
            requests_per_minute=self.requests_per_minute, concurrent_requests=self.concurrent_requests
        )

    @property
    def of_tokens(self) -> "Limits":
        """The limits of tokens alone."""
        return Limits(
            tokens_per_minute=self.tokens_per_minute,
            tokens_per_day=self.tokens_per_day,
            budgets=self.budgets,
        )


_NONE = Limits()


@lru_cache(maxsize=4096)
def _with_day(tokens: int, budgets: Budgets) -> Budgets:
    return (Budget("tokens", "day", tokens), *budgets)


def _smaller(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else min(one, other)


@lru_cache(maxsize=4096)
def in_force(own: KeyLimits, defaults: Limits, budgets: Budgets = ()) -> Limits:
    """The own limits of a key or a team, completed by the defaults, and its budgets."""
    chosen: dict[str, int | None] = {}
    for name in LIMIT_NAMES:
        value = getattr(own, name)
        chosen[name] = getattr(defaults, name) if value is None else (value or None)
    return Limits(**chosen, budgets=budgets)


def default_limits(settings: Settings) -> Limits:
    """The settings' limits for keys without limits of their own."""
    return Limits(**{name: getattr(settings, name) for name in LIMIT_NAMES})
