"""Parts and errors that the routes of files and of batches have in common."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from serval.api.context import ApiContext
from serval.errors import InvalidRequestError, KeyDatabaseError, NotFoundError

if TYPE_CHECKING:
    from serval.batches.service import Batches
    from serval.store.files import StoredFile

logger = logging.getLogger(__name__)
T = TypeVar("T")


def served_batches(context: ApiContext) -> "Batches":
    """Return tables and contents of files and batches. Raises `NotFoundError` if there are none here."""
    if context.batches is None:
        raise NotFoundError(
            "This server runs no batches and keeps no files for them.", code="batches_not_served"
        )
    return context.batches


async def in_database(work: Callable[[], T]) -> T:
    """Do the work in a thread. Raises what it raises, and `KeyDatabaseError` if the database fails."""
    # SQLAlchemy is loaded only where there is a database.
    from sqlalchemy.exc import SQLAlchemyError

    from serval.store.database import reason_of

    try:
        return await asyncio.to_thread(work)
    except SQLAlchemyError as error:
        logger.error("the key database failed: %s", reason_of(error))
        raise KeyDatabaseError(
            "Files and batches cannot be read or changed at the moment. Try again shortly.", retry_after_s=2
        ) from error


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


def unknown_after(after: str | None) -> InvalidRequestError:
    """Return the error for a page behind something that is not there."""
    return InvalidRequestError(f"after is {(after or '')[:100]!r}, which is none of yours.", param="after")
