"""Reports of usage, for the APIs and the command line."""

import csv
import io
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from serval.caller.budgets import cost_text

if TYPE_CHECKING:
    from serval.store.usage import UsageTable

Group = Literal["team", "key", "model", "day", "hour"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
COUNTS: Final = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "tool_calls",
    "errors",
    "cost",
)
# In this order in tables. `start` is Unix time, of the day or hour.
COLUMNS: Final = ("start", "team", "team_name", "key", "name", "model", *COUNTS)
# Most rows of a report: one is whole, or is not made.
MOST_ROWS: Final = 10_000
HOUR_S: Final = 3600
_DAY_S: Final = 86_400
# Length of a report whose start is not given.
_DAYS: Final = 30

Report = Sequence[Mapping[str, Any]]


class LongReportError(Exception):
    """The report would have more than `MOST_ROWS` rows."""

    def __init__(self) -> None:
        super().__init__(f"The report has more than {MOST_ROWS} rows; ask for less time or fewer groups.")


def usual_start(now: float) -> float:
    """Return the start of a report up to `now` that gives none, Unix times: a day of UTC."""
    return (now // _DAY_S - _DAYS) * _DAY_S


def unix_time(when: datetime) -> float:
    """Return a time of a report as Unix time; one without an offset is UTC."""
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


def usage_report(
    table: "UsageTable", by: Collection[Group], *, start: float, end: float, subject: str | None = None
) -> Report:
    """The sums of the hours from that of `start` until before `end`, Unix times, of one subject or of all.

    Each row has all `COLUMNS`; those that `by` does not name are None, and the cost is a decimal.
    Raises `LongReportError`, or SQLAlchemy's errors.
    """
    rows = table.sums(
        by, first=int(start // HOUR_S), end=int(-(-end // HOUR_S)), subject=subject, most=MOST_ROWS + 1
    )
    if len(rows) > MOST_ROWS:
        raise LongReportError
    report = []
    for row in rows:
        found = row._asdict()
        hour = found.get("hour", found.get("day"))
        found["start"] = None if hour is None else hour * HOUR_S
        # PostgreSQL's sums are decimals.
        shown: dict[str, Any] = {
            name: int(found[name]) if name in COUNTS else found.get(name) for name in COLUMNS
        }
        report.append({**shown, "cost": cost_text(shown["cost"])})
    return report


def as_csv(report: Report) -> str:
    """The report as CSV (RFC 4180) with a header; times as in 2026-11-30T08:00:00Z."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in report:
        writer.writerow([cell(name, row[name]) for name in COLUMNS])
    return text.getvalue()


def cell(name: str, value: Any) -> str:
    """A value of a report as text."""
    if value is None:
        return ""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(value)) if name == "start" else str(value)
