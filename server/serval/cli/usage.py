"""`serval usage`: who used how much, by team, key, model, day or hour."""

import argparse
import json
import time
from datetime import datetime
from pathlib import Path

from serval.cli import usage_verify
from serval.cli.keys import duration_s
from serval.errors import SettingsError
from serval.settings import load_settings
from serval.store.factory import open_store
from serval.usage.report import (
    COLUMNS,
    COUNTS,
    GROUPS,
    Group,
    LongReportError,
    Report,
    as_csv,
    cell,
    unix_time,
    usage_report,
    usual_start,
)

_EXAMPLE = """
examples:
  serval usage
  serval usage --since 7d --by key
  serval usage --since 2026-11-01 --until 2026-12-01 --by key,model --csv
  serval usage --key 3f9a0c51d2e4 --by hour --since 24h
  serval usage verify
  serval usage verify --engine http://127.0.0.1:30000 --snapshot counters.json
"""
# Words for the columns of the table.
_HEADS = {
    "start": "TIME", "team": "TEAM", "team_name": "TEAM NAME", "key": "KEY", "name": "NAME", "model": "MODEL",
    "requests": "REQUESTS", "prompt_tokens": "PROMPT", "cached_tokens": "CACHED",
    "completion_tokens": "COMPLETION", "tool_calls": "CALLS", "errors": "ERRORS", "cost": "COST",
}  # fmt: skip
# Columns that come with others.
_NAMED = {"name": "key", "team_name": "team"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("action", nargs="?", choices=("report", "verify"), default="report", metavar="verify",
        help="compare the usage with what budgets and engines counted (default: report it)")  # fmt: skip
    add("--database", metavar="PATH|URL", help="the key database (default: SERVAL_KEY_DATABASE)")
    add("--by", type=_groups, default=("key", "model", "day"), metavar="GROUPS",
        help=f"words of {','.join(GROUPS)} (default key,model,day); '' for the sum of all")  # fmt: skip
    add("--since", type=_time, metavar="TIME", help="such as 7d or 2026-11-01, UTC (default 30d)")
    add("--until", type=_time, metavar="TIME", help="until before this time (default now)")
    add("--key", metavar="ID", help="only this key's usage")
    add("--engine", action="append", metavar="URL", help="verify: an engine to compare with; repeatable")
    add("--snapshot", type=Path, metavar="FILE",
        help="verify: the engines' counters of the last time, to compare with and to replace")  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print the report, or verify it. Raises a `ServalError`."""
    if args.action == "verify":
        return usage_verify.run(args)
    from sqlalchemy.exc import SQLAlchemyError

    from serval.store.database import reason_of
    from serval.store.usage import UsageTable

    now = time.time()
    store = open_store(load_settings(key_database=args.database))
    try:
        report = usage_report(
            UsageTable(store.engine),
            args.by,
            start=usual_start(now) if args.since is None else args.since,
            end=now if args.until is None else args.until,
            subject=args.key,
        )
    except SQLAlchemyError as error:
        raise SettingsError(f"the key database failed: {reason_of(error)}") from None
    except LongReportError as error:
        raise SettingsError(str(error)) from None
    if args.csv:
        print(as_csv(report), end="")
    elif args.json:
        for row in report:
            print(json.dumps(row))
    else:
        print(_table(report, args.by) if report else "no request has ended in this time")
    return 0


def _table(report: Report, by: tuple[Group, ...]) -> str:
    from serval.cli.key_table import aligned, printable

    shown = [
        name
        for name in COLUMNS
        if name in COUNTS or name in by or _NAMED.get(name) in by or _is_time(name, by)
    ]
    rows = [[printable(cell(name, row[name])) for name in shown] for row in report]
    return aligned([[_HEADS[name] for name in shown], *rows])


def _is_time(name: str, by: tuple[Group, ...]) -> bool:
    return name == "start" and ("day" in by or "hour" in by)


def _groups(text: str) -> tuple[str, ...]:
    words = tuple(text.split(",")) if text else ()
    for word in words:
        if word not in GROUPS:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(GROUPS)}")
    return words


def _time(text: str) -> float:
    """Unix time of a date, a date and time, or a time before now such as 7d."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            return time.time() - duration_s(text)
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither a time such as 7d or 12h nor a date such as 2026-11-01"
            ) from None
    return unix_time(when)
