"""Prices from a file: exact, per token, and refused where they would have to be rounded."""

from pathlib import Path

import pytest

from serval.caller.prices import FREE, Price, price_of, read_prices
from serval.errors import SettingsError


def test_read_prices_are_exact(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        '[a]\nprompt = 0.1\ncached = 0.025\ncompletion = 0.4\n["*"]\nprompt = 3\ncompletion = 15\n'
    )
    prices = read_prices(file)
    assert price_of("a", prices) == Price(100, 25, 400)
    # Cached tokens cost as much as others, unless the file says otherwise.
    assert price_of("any other", prices) == Price(3000, 3000, 15000)
    assert price_of("b", (("a", FREE),)) is None


def test_price_cost_counts_cached_tokens_once() -> None:
    price = Price(100, 25, 400)
    assert price.cost(1000, 400, 10) == 600 * 100 + 400 * 25 + 10 * 400
    assert price.most(1000, 10) == 1000 * 100 + 10 * 400
    assert Price(1, 5, 1).most(10, 0) == Price(1, 5, 1).cost(10, 10, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]\nprompt = 1", "must have prompt and completion"),
        ("[a]\nprompt = 1\ncompletion = 1\nextra = 1", "must have prompt and completion"),
        ("a = 1", "must have prompt and completion"),
        ("[a]\nprompt = 0.0001\ncompletion = 1", "at most three decimals"),
        ("[a]\nprompt = -1\ncompletion = 1", "from 0 to"),
        ("[a]\nprompt = nan\ncompletion = 1", "from 0 to"),
        ('[a]\nprompt = "1"\ncompletion = 1', "from 0 to"),
        ("[a", "cannot read"),
    ],
)
def test_read_prices_that_are_wrong_are_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=told):
        read_prices(file)


def test_read_prices_of_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        read_prices(tmp_path / "none.toml")
