"""The responses that the key database keeps.

SQLAlchemy is loaded with this module, so only gateways with a key database import it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from serval.api.key_database import in_key_database
from serval.store.compression import compressed
from serval.store.database import reason_of
from serval.store.responses import Link, ResponseTable, StoredResponse

logger = logging.getLogger(__name__)
T = TypeVar("T")


class KeptResponses:
    """The responses that the key database keeps. Its methods raise `KeyDatabaseError`, but for `keep`."""

    def __init__(self, table: ResponseTable, *, keep_s: int, max_bytes: int) -> None:
        """`keep_s`: how long after its conversation last went on; `max_bytes`: of one key, compressed."""
        self._table = table
        self._keep_s = keep_s
        self._max_bytes = max_bytes

    async def chain(self, subject: str, response_id: str) -> list[Link] | None:
        """See `ResponseTable.chain`."""
        return await _in_database(lambda: self._table.chain(subject, response_id))

    async def load(self, subject: str, ids: Sequence[str]) -> list[StoredResponse]:
        """See `ResponseTable.load`."""
        return await _in_database(lambda: self._table.load(subject, ids))

    async def remove(self, subject: str, response_id: str) -> bool:
        """See `ResponseTable.remove`."""
        return await _in_database(lambda: self._table.remove(subject, response_id))

    async def keep(
        self,
        subject: str,
        response_id: str,
        *,
        before: Sequence[str],
        input_items: bytes,
        body: bytes,
        whole_bytes: int,
    ) -> bool:
        """See `ResponseTable.add`; `input_items` are compressed, `body` is not.

        Also returns False if the database fails: the client gets its answer.
        """

        def add() -> bool:
            return self._table.add(
                subject,
                response_id,
                before=before,
                input_items=input_items,
                body=compressed(body),
                whole_bytes=whole_bytes,
                keep_s=self._keep_s,
                max_bytes=self._max_bytes,
            )

        try:
            return await asyncio.to_thread(add)
        except SQLAlchemyError as error:
            logger.warning("a response was not kept: %s", reason_of(error))
            return False


async def _in_database(work: Callable[[], T]) -> T:
    problem = "The responses that are kept cannot be read at the moment."
    return await in_key_database(work, problem=problem)
