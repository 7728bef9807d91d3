"""Work in the key database for a request."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from serval.errors import KeyDatabaseError

logger = logging.getLogger(__name__)
T = TypeVar("T")

_RETRY_AFTER_S: Final = 2


async def in_key_database(work: Callable[[], T], *, problem: str, level: int = logging.ERROR) -> T:
    """Do the work in a thread. Raises what it raises, and `KeyDatabaseError` if the database fails.

    `problem` is the sentence that clients get then, and `level` that of the line in the log.
    """
    # SQLAlchemy is loaded only where there is a database.
    from sqlalchemy.exc import SQLAlchemyError

    from serval.store.database import reason_of

    try:
        return await asyncio.to_thread(work)
    except SQLAlchemyError as error:
        logger.log(level, "the key database failed: %s", reason_of(error))
        raise KeyDatabaseError(f"{problem} Try again shortly.", retry_after_s=_RETRY_AFTER_S) from error
