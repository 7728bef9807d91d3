"""`/v1/batches`: batches of requests, which belong to the key that has created them."""

from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from serval.api.batch_access import find_file, in_database, page_of, served_batches, unknown_after
from serval.api.dependencies import Caller, Context, count_request
from serval.api.endpoints import BATCH, BATCH_CANCEL, BATCHES, CHAT_COMPLETIONS, COMPLETIONS, RESPONSES
from serval.api.json_route import JsonRoute
from serval.api.responses import LIMIT_HEADERS, WITH_KEY, errors, success
from serval.errors import InvalidRequestError, NotFoundError
from serval.store.batch_errors import FullError
from serval.wire.batches import (
    BatchErrors,
    BatchInputDetails,
    BatchLineError,
    BatchList,
    BatchObject,
    BatchOutputDetails,
    BatchStatus,
    BatchUsage,
    CreateBatch,
    RequestCounts,
)
from serval.wire.decode import invalid_value

if TYPE_CHECKING:
    from serval.store.batches import Batch

WINDOW_S: Final = 86_400
# Endpoints whose requests a batch may hold.
BATCH_ENDPOINTS: Final = (CHAT_COMPLETIONS.path, COMPLETIONS.path, RESPONSES.path)

router = APIRouter(
    route_class=JsonRoute,
    dependencies=[Depends(count_request)],
    responses={**success(headers=LIMIT_HEADERS), **WITH_KEY, **errors(404, 429)},
)


class BatchesPage(BaseModel):
    """Some of the batches. `after`: id of the batch before the first one."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: str | None = None


@router.post(BATCHES.path, summary="Create a batch", responses=errors(413, 415))
async def create_batch(body: CreateBatch, caller: Caller, context: Context) -> BatchObject:
    """Create a batch of an uploaded file. Its lines are checked next; only if all are good, they are run."""
    batches, settings = served_batches(context), context.settings
    if body.endpoint not in BATCH_ENDPOINTS:
        raise invalid_value(f"must be one of {', '.join(BATCH_ENDPOINTS)}", "endpoint", code="invalid_value")
    texts = [text for pair in (body.metadata or {}).items() for text in pair]
    if any("\0" in text for text in texts):
        raise invalid_value("it has a NUL character", "metadata", code="invalid_value")
    caller.require_model(context.model.name)
    file = await find_file(batches, caller.subject, body.input_file_id, param="input_file_id")
    if file.purpose != "batch":
        raise invalid_value("it is no file of purpose batch", "input_file_id", code="invalid_value")
    after = body.output_expires_after
    keep_s = settings.batch_keep_s if after is None else min(after.seconds, settings.batch_keep_s)
    try:
        batch = await in_database(
            lambda: batches.batches.create(
                caller.subject,
                caller=caller.to_json(),
                endpoint=body.endpoint,
                input_file_id=file.id,
                window_s=WINDOW_S,
                output_keep_s=keep_s,
                metadata=body.metadata,
                max_open=settings.batch_max_open,
            )
        )
    except FullError:
        raise InvalidRequestError(
            f"{settings.batch_max_open} batches of this API key have not ended, the most there may be. Wait"
            " for one, or cancel one.",
            code="batches_exceed_limit",
        ) from None
    return batch_object(batch)


@router.get(BATCHES.path, summary="List the batches, the newest first")
async def list_batches(caller: Caller, context: Context, asked: Annotated[BatchesPage, Query()]) -> BatchList:
    """Return a page of the key's batches."""
    table = served_batches(context).batches
    found = await in_database(
        lambda: table.list(subject=caller.subject, limit=asked.limit + 1, after=asked.after)
    )
    if found is None:
        raise unknown_after(asked.after)
    return page_of(BatchList, [batch_object(batch) for batch in found], limit=asked.limit)


@router.get(BATCH.path, summary="Get a batch")
async def retrieve_batch(batch_id: str, caller: Caller, context: Context) -> BatchObject:
    table = served_batches(context).batches
    batch = await in_database(lambda: table.find(batch_id, subject=caller.subject))
    if batch is None:
        raise _not_found(batch_id)
    return batch_object(batch)


@router.post(BATCH_CANCEL.path, summary="Cancel a batch")
async def cancel_batch(batch_id: str, caller: Caller, context: Context) -> BatchObject:
    """Begin to cancel the batch. Lines that run are finished, and results so far can be fetched."""
    table = served_batches(context).batches
    batch = await in_database(lambda: table.cancel(batch_id, subject=caller.subject))
    if batch is None:
        raise _not_found(batch_id)
    if _status(batch) != "cancelling":
        raise InvalidRequestError(
            f"The batch is {batch.status} and can no longer be cancelled.", code="batch_not_cancellable"
        )
    return batch_object(batch)


def batch_object(batch: "Batch") -> BatchObject:
    """Return the batch as OpenAI's API has it."""
    return BatchObject(
        id=batch.id,
        object="batch",
        endpoint=batch.endpoint,
        model=batch.model,
        errors=None
        if batch.errors is None
        else BatchErrors(object="list", data=[BatchLineError.model_validate(one) for one in batch.errors]),
        input_file_id=batch.input_file_id,
        completion_window="24h",
        status=_status(batch),
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=batch.created_at,
        in_progress_at=batch.in_progress_at,
        expires_at=batch.expires_at,
        finalizing_at=batch.finalizing_at,
        completed_at=batch.completed_at,
        failed_at=batch.failed_at,
        expired_at=batch.expired_at,
        cancelling_at=batch.cancelling_at,
        cancelled_at=batch.cancelled_at,
        request_counts=RequestCounts(total=batch.total, completed=batch.completed, failed=batch.failed),
        usage=BatchUsage(
            input_tokens=batch.input_tokens,
            input_tokens_details=BatchInputDetails(cached_tokens=batch.cached_tokens),
            output_tokens=batch.output_tokens,
            output_tokens_details=BatchOutputDetails(reasoning_tokens=batch.reasoning_tokens),
            total_tokens=batch.input_tokens + batch.output_tokens,
        ),
        metadata=None if batch.metadata is None else dict(batch.metadata),
    )


def _status(batch: "Batch") -> BatchStatus:
    # OpenAI's clients do not expect a batch that is cancelled to be finalized in between.
    if batch.status == "finalizing" and batch.cancelling_at is not None:
        return "cancelling"
    return batch.status


def _not_found(batch_id: str) -> NotFoundError:
    return NotFoundError(
        f"No batch found with id {batch_id[:100]!r}: there is none, or it is not this key's.",
        param="batch_id",
        code="batch_not_found",
    )
