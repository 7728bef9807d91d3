"""`/v1/files`: the files of batches, which belong to the key that has uploaded them."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import FileResponse, Response

from serval.api.batch_access import find_file, in_database, page_of, served_batches, unknown_after
from serval.api.dependencies import Caller, Context, count_request
from serval.api.endpoints import FILE, FILE_CONTENT, FILES
from serval.api.responses import LIMIT_HEADERS, WITH_KEY, errors, success
from serval.api.upload import UploadedForm, receive_upload
from serval.batches.folder import write_out
from serval.errors import InvalidRequestError, NotFoundError
from serval.store.batch_errors import FileInUseError, FullError
from serval.wire.batches import DeletedFile, ExpiresAfter, FileList, FileObject
from serval.wire.decode import invalid_value, missing_parameter

if TYPE_CHECKING:
    from serval.store.files import StoredFile

_UPLOAD: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "contentMediaType": "application/jsonl"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600},
                    },
                }
            }
        },
    }
}
_CONTENT: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

router = APIRouter(
    dependencies=[Depends(count_request)],
    responses={**success(headers=LIMIT_HEADERS), **WITH_KEY, **errors(404, 429)},
)


class FilesPage(BaseModel):
    """Some of the files. `after`: id of the file before the first one."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    purpose: str | None = None


@router.post(FILES.path, summary="Upload the input of a batch", responses=errors(413), openapi_extra=_UPLOAD)
async def upload_file(request: Request, caller: Caller, context: Context) -> FileObject:
    """Store the file. Its lines are checked when a batch is made of it."""
    batches, settings = served_batches(context), context.settings
    from serval.store.files import new_file_id

    file_id = new_file_id()
    most = settings.batch_max_stored_bytes
    room = most - await in_database(lambda: batches.files.stored_bytes(caller.subject))
    try:
        with (
            batches.uploads.of(caller.subject, room=room) as count,
            batches.folder.writing(file_id) as content,
        ):

            async def write(data: bytes) -> None:
                count(len(data))
                await asyncio.to_thread(content.write, data)

            form = await receive_upload(
                request.scope, request.receive, write, max_bytes=settings.batch_max_file_bytes
            )
            keep_s = _keep_s(form, most=settings.batch_keep_s)
            # Not at the end of the block, where the event loop would wait for the disk.
            await asyncio.to_thread(write_out, content)
        file = await in_database(
            lambda: batches.files.add(
                file_id,
                caller.subject,
                filename=form.filename,
                size=form.size,
                keep_s=keep_s,
                max_bytes=most,
            )
        )
    except BaseException as error:
        batches.folder.remove(file_id)
        if isinstance(error, FullError):
            raise InvalidRequestError(
                f"The files of this API key would have more than {most} bytes. Delete some.",
                code="files_exceed_limit",
            ) from None
        raise
    return file_object(file)


@router.get(FILES.path, summary="List the files")
async def list_files(caller: Caller, context: Context, asked: Annotated[FilesPage, Query()]) -> FileList:
    """Return a page of the key's files."""
    table = served_batches(context).files
    purpose = asked.purpose
    if purpose is not None and purpose not in ("batch", "batch_output"):
        # No file here has another, and not every text can be asked for.
        return page_of(FileList, [], limit=asked.limit)
    found = await in_database(
        lambda: table.list(
            caller.subject,
            limit=asked.limit + 1,
            after=asked.after,
            purpose=purpose,
            newest_first=asked.order == "desc",
        )
    )
    if found is None:
        raise unknown_after(asked.after)
    return page_of(FileList, [file_object(file) for file in found], limit=asked.limit)


@router.get(FILE.path, summary="Get a file's description")
async def retrieve_file(file_id: str, caller: Caller, context: Context) -> FileObject:
    return file_object(await find_file(served_batches(context), caller.subject, file_id, param="file_id"))


@router.get(
    FILE_CONTENT.path,
    summary="Get a file's content",
    response_class=Response,
    responses=success(headers=LIMIT_HEADERS, content=_CONTENT),
)
async def file_content(file_id: str, caller: Caller, context: Context) -> Response:
    batches = served_batches(context)
    file = await find_file(batches, caller.subject, file_id, param="file_id")
    path = batches.folder.path_of(file.id)
    if not await asyncio.to_thread(path.is_file):
        raise NotFoundError(f"The content of file {file.id!r} is lost.", code="file_not_found")
    return FileResponse(path, media_type="application/octet-stream", filename=file.filename)


@router.delete(FILE.path, summary="Delete a file")
async def delete_file(file_id: str, caller: Caller, context: Context) -> DeletedFile:
    """Delete the file, unless a batch that has not ended needs it."""
    batches = served_batches(context)
    file = await find_file(batches, caller.subject, file_id, param="file_id")
    try:
        await in_database(lambda: batches.files.remove(caller.subject, file.id))
    except FileInUseError:
        raise InvalidRequestError(
            f"The file {file.id!r} is the input of a batch that has not ended. Cancel the batch first.",
            param="file_id",
            code="file_in_use",
        ) from None
    await asyncio.to_thread(batches.folder.remove, file.id)
    return DeletedFile(id=file.id, object="file", deleted=True)


def file_object(file: "StoredFile") -> FileObject:
    """Return the file as OpenAI's API has it."""
    return FileObject(
        id=file.id,
        object="file",
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
        status="processed",
        status_details=None,
    )


def _keep_s(form: UploadedForm, *, most: int) -> int:
    """Return how long to keep the file. Raises `InvalidRequestError` for fields that are not allowed."""
    fields: Mapping[str, str] = form.fields
    if "purpose" not in fields:
        raise missing_parameter("purpose")
    if fields["purpose"] != "batch":
        raise invalid_value("files are kept for the purpose 'batch' alone", "purpose", code="invalid_value")
    if not form.size:
        raise InvalidRequestError("The file is empty.", param="file", code="empty_file")
    names = {"anchor": "expires_after[anchor]", "seconds": "expires_after[seconds]"}
    given = {name: fields[field] for name, field in names.items() if field in fields}
    if not given:
        return most
    try:
        return min(most, ExpiresAfter.model_validate(given).seconds)
    except ValidationError:
        raise invalid_value(
            "the anchor is created_at, and the seconds are 3600 to 2592000",
            "expires_after",
            code="invalid_value",
        ) from None
