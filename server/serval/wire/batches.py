"""Files and batches as OpenAI's API has them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serval.wire.answers import Answer, Count, UnixTime

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
_MIN_KEEP_S = 3600
_MAX_KEEP_S = 30 * 86_400


class FileObject(Answer):
    """A file. `status` is always `processed`: it can be used at once."""

    id: str
    object: Literal["file"]
    bytes: Count
    created_at: UnixTime
    expires_at: UnixTime | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]
    status_details: None


class FileList(Answer):
    """A page of files."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(Answer):
    """A file that is no longer there."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class ExpiresAfter(BaseModel):
    """When a file expires: so many seconds after it was created."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=_MIN_KEEP_S, le=_MAX_KEEP_S)]


class CreateBatch(BaseModel):
    """A batch to be run."""

    endpoint: str
    input_file_id: Annotated[str, Field(max_length=100)]
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


class BatchLineError(Answer):
    """An error of validation. `line` is the number of the line in the input file, from 1."""

    code: str | None
    line: int | None
    message: str | None
    param: str | None


class BatchErrors(Answer):
    """Errors of validation, at most a hundred."""

    object: Literal["list"]
    data: list[BatchLineError]


class RequestCounts(Answer):
    """Lines of the batch; those that were not run when it was cancelled or expired have failed."""

    total: Count
    completed: Count
    failed: Count


class BatchInputDetails(Answer):
    """Prompt tokens found in the engine's cache."""

    cached_tokens: Count


class BatchOutputDetails(Answer):
    """Tokens of answers that are reasoning."""

    reasoning_tokens: Count


class BatchUsage(Answer):
    """Tokens of the lines that are completed."""

    input_tokens: Count
    input_tokens_details: BatchInputDetails
    output_tokens: Count
    output_tokens_details: BatchOutputDetails
    total_tokens: Count


class BatchObject(Answer):
    """A batch."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"]
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: UnixTime
    in_progress_at: UnixTime | None
    expires_at: UnixTime
    finalizing_at: UnixTime | None
    completed_at: UnixTime | None
    failed_at: UnixTime | None
    expired_at: UnixTime | None
    cancelling_at: UnixTime | None
    cancelled_at: UnixTime | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, Any] | None


class BatchList(Answer):
    """A page of batches, the newest first."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
