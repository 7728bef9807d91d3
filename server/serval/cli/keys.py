"""`serval keys`: create, list, change, rotate and revoke API keys; downgrade their database."""

import argparse
import json
import re
import sys
import time
from typing import TYPE_CHECKING

from serval.caller.identity import INFERENCE, SCOPES
from serval.caller.limits import KeyLimits
from serval.cli.limit_options import add_budgets, add_limits, given_budgets, given_limits, printable_name
from serval.errors import SettingsError
from serval.settings import load_settings
from serval.store.factory import database_location, open_store

if TYPE_CHECKING:
    from serval.store.key_store import KeyRecord, KeyStore

_EXAMPLE = """
example:
  export SERVAL_KEY_DATABASE=/var/lib/serval/keys.db     # or postgresql://user:password@host/serval
  serval keys create --name alice --expires-in 90d
  serval keys list
  serval keys update 3f9a0c51d2e4 --requests-per-minute 60 --tokens-per-day 2000000
  serval keys update 3f9a0c51d2e4 --team 7c1e5a90b3d2 --budget cost/month=20
  serval keys rotate 3f9a0c51d2e4 --grace 1h
  serval keys revoke 3f9a0c51d2e4

A running gateway with the same SERVAL_KEY_DATABASE takes every change over in less than a second.
"""

_DURATION = re.compile(r"(\d{1,9})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `serval keys`."""
    parser.epilog = _EXAMPLE
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--database", metavar="PATH|URL", help="the key database (default: SERVAL_KEY_DATABASE)"
    )
    shared.add_argument("--json", action="store_true", help="one JSON object a line")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key and print it, once", parents=[shared])
    create.add_argument(
        "--name", type=printable_name, required=True, help="name of the person or program that uses the key"
    )
    create.add_argument(
        "--scope", action="append", choices=SCOPES, help=f"what it is for; repeatable (default {INFERENCE})"
    )
    create.add_argument(
        "--model", action="append", type=_word, help="a model it is for; repeatable (default all)"
    )
    create.add_argument(
        "--expires-in", type=duration_s, metavar="TIME", help="such as 12h or 90d (default never)"
    )
    create.add_argument("--team", metavar="ID", help="the team that it belongs to")
    add_limits(create)
    add_budgets(create)
    update = actions.add_parser(
        "update", help="change limits, budgets and the team of a key", parents=[shared]
    )
    update.add_argument("id", help="public id of the key")
    update.add_argument("--team", metavar="ID", help="another team for it, or 'none'")
    add_limits(update)
    add_budgets(update)
    update.set_defaults(wrong_use=update.error)
    actions.add_parser("list", help="show all keys; not the secrets, which are not stored", parents=[shared])
    rotate = actions.add_parser("rotate", help="make a new key in place of one", parents=[shared])
    rotate.add_argument("id", help="public id of the old key")
    rotate.add_argument(
        "--grace", type=duration_s, default=0, metavar="TIME", help="how long the old key still works"
    )
    revoke = actions.add_parser("revoke", help="refuse a key from now on", parents=[shared])
    revoke.add_argument("id", help="public id of the key")
    downgrade = actions.add_parser(
        "downgrade",
        help="before going back to an older release: give the database its schema",
        parents=[shared],
    )
    downgrade.add_argument("--to", required=True, metavar="REVISION", help="such as 0001; see CHANGELOG.md")


def run(args: argparse.Namespace) -> int:
    """Run one action. Raises a `ServalError`."""
    from sqlalchemy.exc import SQLAlchemyError

    from serval.store.database import reason_of

    if args.action == "update" and not (given_limits(args) or given_budgets(args) or args.team):
        args.wrong_use("nothing to change; give a limit, such as --requests-per-minute 60")
    settings = load_settings(key_database=args.database)
    if args.action == "downgrade":
        from serval.store.database import downgrade_database

        downgrade_database(database_location(settings), args.to)
        print(json.dumps({"schema": args.to}) if args.json else f"the key database has schema {args.to} now")
        return 0
    store = open_store(settings)
    try:
        _run_action(args, store)
    except SQLAlchemyError as error:
        raise SettingsError(f"the key database failed, nothing was changed: {reason_of(error)}") from None
    return 0


def _run_action(args: argparse.Namespace, store: "KeyStore") -> None:
    # Imported here: the database takes a third of a second to load.
    from serval.cli.key_table import key_table, limits_text, printable, state_of
    from serval.store.key_store import KEEP

    def print_new(record: "KeyRecord", key: str) -> None:
        if args.json:
            print(json.dumps({**record.as_object(), "key": key}))
        else:
            table = key_table([record], now=time.time())
            print(f"{table}\n\n{key}\nThis is the only time the key is shown.")

    def print_changed(record: "KeyRecord", text: str) -> None:
        print(
            json.dumps(record.as_object()) if args.json else f"{record.id} ({printable(record.name)}): {text}"
        )

    if args.action == "create":
        budgets = given_budgets(args)
        print_new(
            *store.create(
                name=args.name,
                scopes=args.scope or [INFERENCE],
                models=args.model,
                expires_in_s=args.expires_in,
                limits=KeyLimits(**given_limits(args)),
                team=args.team,
                budgets=() if budgets is None else budgets(()),
            )
        )
    elif args.action == "update":
        team = KEEP if args.team is None else None if args.team == "none" else args.team
        record = store.update(args.id, limits=given_limits(args), budgets=given_budgets(args), team=team)
        of_team = "" if record.team is None else f", in the team {record.team}"
        print_changed(record, f"limits are now {limits_text(record.limits, record.budgets)}{of_team}")
        if not record.is_live(time.time()):
            state = state_of(record, time.time())
            print(f"serval keys: warning: this key is {state}, so its limits have no effect", file=sys.stderr)
    elif args.action == "rotate":
        print_new(*store.rotate(args.id, grace_s=args.grace))
    elif args.action == "revoke":
        print_changed(store.revoke(args.id), "revoked")
    else:
        _, records = store.load()
        if args.json:
            for record in records:
                print(json.dumps(record.as_object()))
        else:
            none = "there are no keys; `serval keys create --name NAME` makes one"
            print(key_table(records, now=time.time()) if records else none)


def duration_s(text: str) -> int:
    """Seconds in a duration such as `30s`, `15m`, `12h` or `90d`. Raises `ArgumentTypeError`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30s, 15m, 12h or 90d")
    return int(match[1]) * _UNIT_S[match[2]]


def _word(text: str) -> str:
    if not text.isprintable() or text.split() != [text]:
        raise argparse.ArgumentTypeError(f"{text!r} must be a model's name: printable, without white space")
    return text
