"""Options of limits and budgets, of `serval keys` and `serval teams`."""

import argparse
from collections.abc import Callable

from serval.caller.budgets import PERIODS, UNITS, Budgets, Period, Unit, amount_of, changed_budgets
from serval.caller.limits import LIMIT_NAMES, MAX_LIMIT, limit_of
from serval.errors import SettingsError

# Unit, period and amount of a budget; None takes a limit away.
_Given = tuple[Unit, Period, int | None]


def add_limits(parser: argparse.ArgumentParser, *, of_team: bool = False) -> None:
    """Add an option for each limit."""
    for name in LIMIT_NAMES:
        default = "" if of_team else f", or 'default' for SERVAL_{name.upper()}"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=_limit,
            metavar="N",
            help=f"{'of all its keys together: ' if of_team else ''}a number, 'unlimited'{default}",
        )


def add_budgets(parser: argparse.ArgumentParser) -> None:
    """Add the options of budgets."""
    periods = ", ".join(PERIODS)
    for option, meaning in (
        ("--budget", "requests beyond it are refused"),
        ("--soft-budget", "use is reported"),
    ):
        parser.add_argument(
            option,
            type=_budget,
            action="append",
            default=[],
            metavar="UNIT/PERIOD=AMOUNT",
            help=f"{meaning}: {' or '.join(UNITS)} a {periods}, as tokens/day=5000000 or cost/month=9.5;"
            " 'none' takes it away; repeatable",
        )


def given_limits(args: argparse.Namespace) -> dict[str, int | None]:
    """The limits that options set, in the form that is stored."""
    given = {name: getattr(args, name) for name in LIMIT_NAMES}
    return {name: limit_of(value) for name, value in given.items() if value is not None}


def given_budgets(args: argparse.Namespace) -> Callable[[Budgets], Budgets] | None:
    """The change of budgets that options describe; None if there are none. It raises `SettingsError`."""
    if not args.budget and not args.soft_budget:
        return None
    hard, soft = (
        {(unit, period): amount for unit, period, amount in given}
        for given in (args.budget, args.soft_budget)
    )

    def change(budgets: Budgets) -> Budgets:
        try:
            return changed_budgets(budgets, hard, soft)
        except ValueError as error:
            raise SettingsError(str(error)) from None

    return change


def printable_name(text: str) -> str:
    """A name of a key or a team. Raises `ArgumentTypeError`."""
    if not text.isprintable() or not 1 <= len(text) <= 200:
        raise argparse.ArgumentTypeError("a name is 1 to 200 printable characters")
    return text


def _limit(text: str) -> int | str:
    if text in {"unlimited", "default"}:
        return text
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not 'unlimited', 'default' or from 1 to {MAX_LIMIT}")
    return int(text)


def _budget(text: str) -> _Given:
    name, equals, amount = text.partition("=")
    for unit in UNITS:
        for period in PERIODS:
            if equals and name == f"{unit}/{period}":
                try:
                    return unit, period, None if amount == "none" else amount_of(unit, amount)
                except ValueError as error:
                    raise argparse.ArgumentTypeError(str(error)) from None
    raise argparse.ArgumentTypeError(f"{text!r} is no budget such as tokens/day=5000000 or cost/month=250.00")
