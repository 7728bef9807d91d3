"""The page of usage: sums and a chart by key, team or model, and the same as CSV."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, Literal, cast, get_args

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from serval.caller.budgets import cost_of, cost_text
from serval.console.charts import Chart, stacked_bars
from serval.console.pages import number, page
from serval.console.parts import Console
from serval.console.sessions import Session
from serval.errors import ApiError, InvalidRequestError, KeyDatabaseError
from serval.usage.report import COUNTS, Group, LongReportError, Report, as_csv, usage_report

By = Literal["key", "team", "model"]
DAYS: Final = (1, 7, 30, 90)
_DAY_S: Final = 86_400
_HOUR_S: Final = 3600


async def usage_page(console: Console, request: Request, session: Session) -> Response:
    """Return the page."""
    by, days = _asked(request)
    step: Group = "hour" if days == 1 else "day"
    rows: list[dict[str, Any]] = []
    chart: Chart | None = None
    error: ApiError | None = None
    now = time.time()
    first = _first_column(now, days)
    try:
        report = await _report(console, [by, step], first, now)
        rows, chart = _sums(report, by), _chart(report, by, step, first, days)
    except ApiError as problem:
        error = problem
    return page(
        request,
        "usage.html",
        session=session,
        sessions=console.sessions,
        status=None if error is None else 503,
        by=by,
        days=days,
        groups=get_args(By),
        ranges=DAYS,
        rows=rows,
        chart=chart,
        counts=COUNTS,
        total={name: sum(row[name] for row in rows) for name in COUNTS},
        shown=_shown,
        error=error,
    )


async def usage_csv(console: Console, request: Request, session: Session) -> Response:
    """Return the days of the page's range as CSV."""
    by, days = _asked(request)
    headers = {"content-disposition": f'attachment; filename="usage-by-{by}.csv"'}
    now = time.time()
    report = await _report(console, [by, "day"], _first_column(now, days), now)
    return Response(as_csv(report), media_type="text/csv", headers=headers)


def _asked(request: Request) -> tuple[By, int]:
    by, days = request.query_params.get("by", "key"), request.query_params.get("days", "7")
    if by not in get_args(By) or days not in map(str, DAYS):
        raise InvalidRequestError("There is no such report.")
    return cast(By, by), int(days)


async def _report(console: Console, groups: Sequence[Group], first: int, now: float) -> Report:
    """Return the report of the time between. Raises `InvalidRequestError` or `KeyDatabaseError`."""
    try:
        return await asyncio.to_thread(usage_report, console.usage, groups, start=first, end=now)
    except LongReportError as error:
        raise InvalidRequestError(str(error)) from None
    except SQLAlchemyError:
        raise KeyDatabaseError("The usage cannot be read at the moment. Try again shortly.") from None


def _first_column(now: float, days: int) -> int:
    if days == 1:
        return int(now // _HOUR_S - 23) * _HOUR_S
    return int(now // _DAY_S - days + 1) * _DAY_S


def _label(row: dict[str, Any], by: By) -> str:
    if by == "model":
        return str(row["model"])
    name, subject = (row["name"], row["key"]) if by == "key" else (row["team_name"], row["team"])
    return f"{name} ({subject})" if name else subject or "no team"


def _sums(report: Report, by: By) -> list[dict[str, Any]]:
    """Return one row for each key or model, the largest first."""
    sums: dict[str, dict[str, Any]] = {}
    for row in map(dict, report):
        label = _label(row, by)
        into = sums.setdefault(label, {"label": label, **dict.fromkeys(COUNTS, 0)})
        for name in COUNTS:
            into[name] += cost_of(row[name]) if name == "cost" else row[name]
    return sorted(sums.values(), key=lambda row: (-_tokens(row), row["label"]))


def _shown(name: str, value: int) -> str:
    """Return a cell of the table."""
    return cost_text(value) if name == "cost" else number(value)


def _chart(report: Report, by: By, step: Group, first: int, days: int) -> Chart:
    """Return prompt and completion tokens by time."""
    size = _HOUR_S if step == "hour" else _DAY_S
    shown = "%d %b %H:00" if step == "hour" else "%d %b"
    columns = [
        time.strftime(shown, time.gmtime(first + place * size)) for place in range(24 if days == 1 else days)
    ]
    counts: dict[tuple[str, str], int] = {}
    for row in map(dict, report):
        place = time.strftime(shown, time.gmtime(row["start"])), _label(row, by)
        counts[place] = counts.get(place, 0) + _tokens(row)
    return stacked_bars(counts, columns)


def _tokens(row: dict[str, Any]) -> int:
    return int(row["prompt_tokens"]) + int(row["completion_tokens"])
