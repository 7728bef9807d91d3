"""`GET /admin/usage`: the usage of all keys."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from serval.api.dependencies import admin_key
from serval.api.endpoints import ADMIN_USAGE
from serval.api.responses import WITH_KEY
from serval.api.usage import UsageList, UsageQuery, report_response, usage_answer

router = APIRouter(dependencies=[Depends(admin_key)], responses={**usage_answer(), **WITH_KEY})


@router.get(ADMIN_USAGE.path, summary="Get the usage of all keys", response_model=UsageList)
async def all_usage(request: Request, asked: Annotated[UsageQuery, Query()]) -> Response:
    """Return the sums of all requests that have ended, of all but the last second or two."""
    return await report_response(request.app.state.usage, asked, by=asked.group_by, subject=asked.key)
