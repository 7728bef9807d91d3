"""Prices of tokens by model, from a file; whole numbers of `COST_UNIT`ths of the currency for each token.

The file is TOML with a table for each model, and "*" for all others; a price is that of a million tokens:

    [longcat-flash-lite]
    prompt = 0.10
    cached = 0.02       # found in the prefix cache; default: as the prompt
    completion = 0.40
"""

import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from serval.caller.budgets import COST_UNIT
from serval.errors import SettingsError

_MILLION: Final = 10**6
# Highest price of a million tokens.
_HIGHEST: Final = 10**6
_ANY_MODEL: Final = "*"


class Price(Struct, frozen=True, array_like=True):
    """Price of a token of the prompt, of one that was found in the prefix cache, and of a completion."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def cost(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
        """The cost of a request; cached tokens are among those of its prompt."""
        return (
            (prompt_tokens - cached_tokens) * self.prompt
            + cached_tokens * self.cached
            + completion_tokens * self.completion
        )

    def most(self, prompt_tokens: int, completion_tokens: int) -> int:
        """The highest cost that a request may have, whatever is found in the cache."""
        return prompt_tokens * max(self.prompt, self.cached) + completion_tokens * self.completion


FREE: Final = Price()
# By model; a tuple, as it is part of the live settings.
Prices = tuple[tuple[str, Price], ...]


def price_of(model: str, prices: Prices) -> Price | None:
    """The price of a model; None if the file has none."""
    by_model = dict(prices)
    return by_model.get(model, by_model.get(_ANY_MODEL))


def read_prices(path: Path) -> Prices:
    """The prices in the file. Raises `SettingsError`."""
    try:
        # Decimals: no price passes through a float.
        tables = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the file of prices {str(path)!r}: {error}") from error
    try:
        return tuple((model, _price(model, table)) for model, table in tables.items())
    except ValueError as error:
        raise SettingsError(f"the file of prices {str(path)!r}: {error}") from None


def _price(model: str, table: Any) -> Price:
    if not isinstance(table, Mapping) or not {"prompt", "completion"} <= table.keys() <= set(
        Price.__struct_fields__
    ):
        raise ValueError(f"[{model}] must have prompt and completion, and may have cached")
    prices = {name: _of_token(f"{model}.{name}", value) for name, value in table.items()}
    return Price(**{"cached": prices["prompt"], **prices})


def _of_token(name: str, value: Any) -> int:
    number = isinstance(value, int | Decimal) and not isinstance(value, bool) and Decimal(value).is_finite()
    if not number or not 0 <= value <= _HIGHEST:
        raise ValueError(f"{name} is {str(value)[:40]!r}; a price is a number from 0 to {_HIGHEST}")
    price = Decimal(value) * COST_UNIT / _MILLION
    if price != int(price):
        raise ValueError(f"{name} is {value}; a price of a million tokens has at most three decimals")
    return int(price)
