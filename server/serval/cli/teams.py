"""`serval teams`: create, list, change and delete teams of keys."""

import argparse
import json
from typing import TYPE_CHECKING

from serval.caller.limits import KeyLimits
from serval.cli.limit_options import add_budgets, add_limits, given_budgets, given_limits, printable_name
from serval.errors import SettingsError
from serval.settings import load_settings
from serval.store.factory import open_store

if TYPE_CHECKING:
    from serval.store.teams import TeamRecord, TeamStore

_EXAMPLE = """
example:
  serval teams create --name research --budget cost/month=250 --soft-budget cost/month=200
  serval keys create --name alice --team 7c1e5a90b3d2
  serval keys update 3f9a0c51d2e4 --team 7c1e5a90b3d2
  serval teams update 7c1e5a90b3d2 --budget tokens/day=5000000 --budget cost/month=none
  serval teams list

A running gateway with the same SERVAL_KEY_DATABASE takes every change over in less than a second.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `serval teams`."""
    parser.epilog = _EXAMPLE
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--database", metavar="PATH|URL", help="the key database (default: SERVAL_KEY_DATABASE)"
    )
    shared.add_argument("--json", action="store_true", help="one JSON object a line")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a team", parents=[shared])
    create.add_argument("--name", type=printable_name, required=True, help="name of the team")
    update = actions.add_parser("update", help="change a team's name, limits and budgets", parents=[shared])
    update.add_argument("id", help="id of the team")
    update.add_argument("--name", type=printable_name, help="its new name")
    for action in (create, update):
        add_limits(action, of_team=True)
        add_budgets(action)
    update.set_defaults(wrong_use=update.error)
    actions.add_parser("list", help="show all teams", parents=[shared])
    delete = actions.add_parser("delete", help="delete a team that has no live keys", parents=[shared])
    delete.add_argument("id", help="id of the team")


def run(args: argparse.Namespace) -> int:
    """Run one action. Raises a `ServalError`."""
    from sqlalchemy.exc import SQLAlchemyError

    from serval.store.database import reason_of
    from serval.store.teams import TeamStore

    if args.action == "update" and not (args.name or given_limits(args) or given_budgets(args)):
        args.wrong_use("nothing to change; give a budget, such as --budget tokens/day=5000000")
    store = TeamStore(open_store(load_settings(key_database=args.database)).engine)
    try:
        records = _changed(args, store)
    except SQLAlchemyError as error:
        raise SettingsError(f"the key database failed, nothing was changed: {reason_of(error)}") from None
    if args.json:
        for record in records:
            print(json.dumps(record.as_object()))
    elif records:
        print(_table(records))
    else:
        print("there are no teams; `serval teams create --name NAME` makes one")
    return 0


def _changed(args: argparse.Namespace, store: "TeamStore") -> "list[TeamRecord]":
    if args.action == "list":
        return store.load()
    if args.action == "delete":
        return [store.delete(args.id)]
    limits, budgets = given_limits(args), given_budgets(args)
    if args.action == "create":
        own = () if budgets is None else budgets(())
        return [store.create(name=args.name, limits=KeyLimits(**limits), budgets=own)]
    return [store.update(args.id, name=args.name, limits=limits, budgets=budgets)]


def _table(records: "list[TeamRecord]") -> str:
    from serval.cli.key_table import aligned, limits_text, printable, time_text

    rows = [
        (
            printable(record.name),
            record.id,
            time_text(record.created_at),
            limits_text(record.limits, record.budgets, none="unlimited"),
        )
        for record in records
    ]
    return aligned([("NAME", "ID", "CREATED", "LIMITS"), *rows])
