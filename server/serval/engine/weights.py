"""Weights of engines: how many of the conversations each is the home of.

A weight is a number beside the 1 of an ordinary engine, or a share of all conversations in percent.
"""

import math
import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

MOST_WEIGHT: Final = 100.0
MOST_SHARE: Final = 0.99
_FORM: Final = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)(%?)", re.ASCII)


class Weight(Struct, frozen=True):
    """A weight beside that of an ordinary engine or, if `is_share`, a share of all conversations (0 to 1)."""

    value: float = 1.0
    is_share: bool = False

    def __str__(self) -> str:
        """The form that `parse_weight` reads."""
        return f"{round(self.value * 100, 6):g}%" if self.is_share else f"{self.value:g}"


ORDINARY: Final = Weight()


def parse_weight(text: str) -> Weight:
    """Return the weight in a text such as `0.5` or `5%`. Raises `ValueError` that says what is allowed."""
    form = _FORM.fullmatch(text)
    if form is not None:
        value = float(form[1])
        if form[2] and value <= MOST_SHARE * 100:
            return Weight(value / 100, is_share=True)
        if not form[2] and value <= MOST_WEIGHT:
            return Weight(value)
    raise ValueError(
        f"the weight {text[:40]!r} cannot be used; give a share of all conversations from 0% to"
        f" {MOST_SHARE:.0%}, such as 5%, or a number from 0 to {MOST_WEIGHT:g} beside the 1 of an ordinary"
        " engine"
    )


def check_shares(weights: Sequence[Weight]) -> None:
    """Raise `ValueError` if the shares leave nothing for the other engines."""
    total = math.fsum(weight.value for weight in weights if weight.is_share)
    if total > MOST_SHARE:
        raise ValueError(
            f"the engines' shares add up to {round(total * 100, 6):g}% of the conversations; the others need"
            f" at least {1 - MOST_SHARE:.0%}"
        )


def relative_weights(engines: Sequence[tuple[Weight, int]]) -> list[float]:
    """Return the weight of each place of the engines beside the 1 of an ordinary one.

    Each engine has a weight and a number of places, 0 if it has not been there. Beside places whose numbers
    add up to W, an engine with the share s weighs sW / (1 - S), where S is the sum of all shares: s of all
    weights. Its places divide that among them.
    """
    numbers = math.fsum(weight.value * places for weight, places in engines if not weight.is_share)
    shares = math.fsum(weight.value for weight, places in engines if weight.is_share and places)
    unit = (numbers or 1.0) / max(1 - shares, 1 - MOST_SHARE)
    return [
        weight.value * unit / max(places, 1) if weight.is_share else weight.value
        for weight, places in engines
    ]


class Override(Struct, frozen=True):
    """Orders of an administrator about an engine; `weight` None: as the list of engines says."""

    weight: Weight | None = None
    drained: bool = False


NO_OVERRIDE: Final = Override()
