"""`serval keys`: create, list, change, rotate and revoke API keys; downgrade their database."""

import argparse
import json
import re
import time
from typing import TYPE_CHECKING, Any

from serval.caller.identity import INFERENCE, SCOPES
from serval.caller.limits import LIMIT_NAMES, MAX_LIMIT, KeyLimits, limit_of
from serval.errors import SettingsError
from serval.settings import load_settings
from serval.store.factory import database_location, open_store

if TYPE_CHECKING:
    from serval.store.key_store import KeyStore

_EXAMPLE = """
example:
  export SERVAL_KEY_DATABASE=/var/lib/serval/keys.db     # or postgresql://user:password@host/serval
  serval keys create --name alice --expires-in 90d
  serval keys list
  serval keys update 3f9a0c51d2e4 --requests-per-minute 60 --tokens-per-day 2000000
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
    create.add_argument("--name", type=_name, required=True, help="whose key it is, for people")
    create.add_argument(
        "--scope", action="append", choices=SCOPES, help=f"what it is for; repeatable (default {INFERENCE})"
    )
    create.add_argument(
        "--model", action="append", type=_word, help="a model it is for; repeatable (default all)"
    )
    create.add_argument(
        "--expires-in", type=duration_s, metavar="TIME", help="such as 12h or 90d (default never)"
    )
    _add_limits(create)
    update = actions.add_parser("update", help="change limits of a key", parents=[shared])
    update.add_argument("id", help="public id of the key")
    _add_limits(update)
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
    if args.action == "create":
        record, key = store.create(
            name=args.name,
            scopes=args.scope or [INFERENCE],
            models=args.model,
            expires_in_s=args.expires_in,
            limits=KeyLimits(**_given_limits(args)),
        )
        _print_new(record.as_object(), key, as_json=args.json)
    elif args.action == "update":
        shown = store.update_limits(args.id, _given_limits(args)).as_object()
        print(
            json.dumps(shown)
            if args.json
            else f"{shown['id']} ({_printable(shown['name'])})  {_limits(shown)}"
        )
    elif args.action == "rotate":
        record, key = store.rotate(args.id, grace_s=args.grace)
        _print_new(record.as_object(), key, as_json=args.json)
    elif args.action == "revoke":
        shown = store.revoke(args.id).as_object()
        print(json.dumps(shown) if args.json else f"revoked {shown['id']} ({_printable(shown['name'])})")
    else:
        _, records = store.load()
        for record in records:
            state = "live" if record.is_live(time.time()) else "dead"
            print(json.dumps(record.as_object()) if args.json else _line(record.as_object(), state))


def _add_limits(parser: argparse.ArgumentParser) -> None:
    for name in LIMIT_NAMES:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=_limit,
            metavar="N",
            help=f"a number, 'unlimited', or 'default' for SERVAL_{name.upper()}",
        )


def _given_limits(args: argparse.Namespace) -> dict[str, int | None]:
    given = {name: getattr(args, name) for name in LIMIT_NAMES}
    return {name: limit_of(value) for name, value in given.items() if value is not None}


def _limit(text: str) -> int | str:
    if text in {"unlimited", "default"}:
        return text
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not 'unlimited', 'default' or from 1 to {MAX_LIMIT}")
    return int(text)


def duration_s(text: str) -> int:
    """Seconds in a duration such as `30s`, `15m`, `12h` or `90d`. Raises `ArgumentTypeError`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30s, 15m, 12h or 90d")
    return int(match[1]) * _UNIT_S[match[2]]


def _name(text: str) -> str:
    if not text.isprintable() or not 1 <= len(text) <= 200:
        raise argparse.ArgumentTypeError("a name is 1 to 200 printable characters")
    return text


def _word(text: str) -> str:
    if not text.isprintable() or text.split() != [text]:
        raise argparse.ArgumentTypeError(f"{text!r} must be a model's name: printable, without white space")
    return text


def _print_new(record: dict[str, Any], key: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**record, "key": key}))
    else:
        print(f"{_line(record, 'live')}\n{key}\nThis is the only time the key is shown.")


def _line(record: dict[str, Any], state: str) -> str:
    def day(when: int | None) -> str:
        return "-" if when is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))

    models = "all" if record["models"] is None else _printable(",".join(record["models"]))
    return (
        f"{record['id']}  {state}  {','.join(record['scopes'])}  models={models}"
        f"  created={day(record['created_at'])}  expires={day(record['expires_at'])}"
        f"  revoked={day(record['revoked_at'])}  {_limits(record)}  {_printable(record['name'])}"
    )


def _printable(text: str) -> str:
    """The text with its control characters escaped: databases of earlier releases may hold some."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _limits(record: dict[str, Any]) -> str:
    return "  ".join(f"{name}={value}" for name, value in record["limits"].items() if value != "default")
