"""Parts and errors that the routes of files and of batches have in common."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from serval.api.context import ApiContext
from serval.api.key_database import in_key_database
from serval.errors import InvalidRequestError, NotFoundError
from serval.wire.batches import BatchList, FileList

if TYPE_CHECKING:
    from serval.batches.service import Batches
    from serval.store.files import StoredFile

T = TypeVar("T")
Page = TypeVar("Page", FileList, BatchList)


def served_batches(context: ApiContext) -> "Batches":
    """Return tables and contents of files and batches. Raises `NotFoundError` if there are none here."""
    if context.batches is None:
        raise NotFoundError(
            "This server runs no batches and keeps no files for them.", code="batches_not_served"
        )
    return context.batches


async def in_database(work: Callable[[], T]) -> T:
    """Do the work in a thread. Raises what it raises, and `KeyDatabaseError` if the database fails."""
    problem = "Files and batches cannot be read or changed at the moment."
    return await in_key_database(work, problem=problem)


async def find_file(batches: "Batches", subject: str, file_id: str, *, param: str) -> "StoredFile":
    """Return the caller's file. Raises `NotFoundError`."""
    file = await in_database(lambda: batches.files.find(subject, file_id))
    if file is None:
        raise NotFoundError(
            f"No such file: {file_id[:100]!r}. It has expired or was deleted, or is not this key's.",
            param=param,
            code="file_not_found",
        )
    return file


def page_of(kind: type[Page], found: Sequence[Any], *, limit: int) -> Page:
    """Return the page with the first `limit` objects of `found`, which has one more if there are more."""
    shown = list(found[:limit])
    return kind(
        object="list",
        data=shown,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(found) > limit,
    )


def unknown_after(after: str | None) -> InvalidRequestError:
    """Return the error for a page behind something that is not there."""
    return InvalidRequestError(f"after is {(after or '')[:100]!r}, which is none of yours.", param="after")
