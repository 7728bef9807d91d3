"""`GET /v1/usage`: the usage of the caller's key; and what `/admin/usage` has in common with it."""

import asyncio
import time
from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from serval.api.dependencies import Caller, Context, count_request
from serval.api.endpoints import USAGE
from serval.api.responses import LIMIT_HEADERS, WITH_KEY, Responses, errors, success
from serval.errors import InvalidRequestError, KeyDatabaseError, NotFoundError
from serval.usage.report import Group, LongReportError, as_csv, unix_time, usage_report, usual_start
from serval.wire.answers import Answer, UnixTime
from serval.wire.components import reference_to

if TYPE_CHECKING:
    from serval.store.usage import UsageTable

Count = Annotated[int, Field(ge=0)]


class UsageRow(Answer):
    """Sums over requests; a field that is not grouped by is null.

    `start` is that of the hour or day in which requests came in. `key` is the key's public id, `oidc:` and
    the name of a caller with a token, or `operator-` and the index of one of the operator's keys. `requests`
    are calls of the API, `errors` those of them that ended with an error. `cost` is a decimal, in the
    currency of the prices.
    """

    start: UnixTime | None
    team: str | None
    team_name: str | None
    key: str | None
    name: str | None
    model: str | None
    requests: Count
    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count
    tool_calls: Count
    errors: Count
    cost: str


class UsageList(Answer):
    """A report. It is always whole."""

    object: Literal["list"]
    data: list[UsageRow]


class _Range(BaseModel):
    model_config = ConfigDict(extra="forbid")

    start: Annotated[datetime | None, Field(description="From this hour on; default: 30 days ago.")] = None
    end: Annotated[datetime | None, Field(description="Until before this time; default: now.")] = None
    format: Literal["json", "csv"] = "json"


class OwnUsageQuery(_Range):
    """Range and groups. Times without an offset are UTC."""

    group_by: list[Literal["model", "day", "hour"]] = ["model", "day"]


class UsageQuery(_Range):
    """Range, groups and key. Times without an offset are UTC."""

    group_by: list[Group] = ["key", "model", "day"]
    key: Annotated[str | None, Field(max_length=1000, description="Only this key's.")] = None


def usage_answer(**options: Any) -> Responses:
    """Describe the answer of an endpoint; `options` are those of `success`."""
    content = {
        "application/json": {"schema": reference_to(UsageList)},
        "text/csv": {"schema": {"type": "string"}},
    }
    return success(content=content, **options)


router = APIRouter(
    dependencies=[Depends(count_request)],
    responses={**usage_answer(headers=LIMIT_HEADERS), **WITH_KEY, **errors(404, 429)},
)


@router.get(USAGE.path, summary="Get the usage of the caller's key", response_model=UsageList)
async def own_usage(caller: Caller, context: Context, asked: Annotated[OwnUsageQuery, Query()]) -> Response:
    """Return the sums of the caller's requests that have ended, of all but the last second or two."""
    if context.usage is None:
        raise NotFoundError("This server keeps no usage.", code="usage_not_kept")
    return await report_response(context.usage, asked, by=asked.group_by, subject=caller.subject)


async def report_response(
    table: "UsageTable", asked: _Range, *, by: Collection[Group], subject: str | None
) -> Response:
    """The report as JSON or CSV. Raises `InvalidRequestError` or `KeyDatabaseError`."""
    from sqlalchemy.exc import SQLAlchemyError

    now = time.time()
    end = now if asked.end is None else unix_time(asked.end)
    start = usual_start(now) if asked.start is None else unix_time(asked.start)
    if start >= end:
        raise InvalidRequestError("The report's end must be after its start.", param="start")
    if subject is not None and "\0" in subject:
        # PostgreSQL refuses it as a parameter.
        raise InvalidRequestError("There is no such key.", param="key")
    try:
        report = await asyncio.to_thread(usage_report, table, by, start=start, end=end, subject=subject)
    except LongReportError as error:
        raise InvalidRequestError(str(error), param="group_by") from None
    except SQLAlchemyError:
        raise KeyDatabaseError(
            "The usage cannot be read at the moment. Try again shortly.", retry_after_s=2
        ) from None
    if asked.format == "csv":
        return Response(as_csv(report), media_type="text/csv")
    answer = UsageList(object="list", data=[UsageRow.model_validate(row) for row in report])
    return Response(answer.model_dump_json(), media_type="application/json")
