"""Responses that later requests continue by their id, in the database.

A conversation is a chain: each response has the items of its own request, and the id of the response before.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, delete, func, insert, literal, select, update

from serval.store.compression import uncompressed
from serval.store.database import transaction
from serval.store.tables import responses

# Longest chain, in responses.
MAX_CHAIN: Final = 4096
# Counted for each response beside its data, so that small ones are not kept without number.
ROW_BYTES: Final = 1024
# Share of the bytes that is left when responses had to make room: then it need not be made each time.
_LEFT: Final = 0.9
# A statement has a few ten thousand parameters at most.
_MOST_DELETED: Final = 10_000
# Not every text can be a parameter: PostgreSQL refuses NUL.
_ID: Final = re.compile(r"resp_[0-9a-f]{32}")


@dataclass(frozen=True)
class StoredResponse:
    """A response. `input` holds the request's items and `body` the response object, as JSON."""

    id: str
    parent: str | None
    created_at: int
    input: bytes
    body: bytes


@dataclass(frozen=True)
class Link:
    """A response of a chain, and the bytes of its JSON."""

    id: str
    whole_bytes: int


class ResponseTable:
    """The table. Safe to use from several threads and processes. A subject sees its own responses alone."""

    def __init__(self, engine: Engine, *, now: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = now

    def chain(self, subject: str, response_id: str) -> list[Link] | None:
        """Return the response and those before it, the oldest first; None if one of them is missing."""
        if not _ID.fullmatch(response_id):
            return None
        columns = (responses.c.id, responses.c.parent, responses.c.whole_bytes)
        mine = (responses.c.subject == subject, responses.c.expires_at > int(self._now()))
        last = select(*columns, literal(1).label("depth")).where(responses.c.id == response_id, *mine)
        chain = last.cte("chain", recursive=True)
        before = select(*columns, chain.c.depth + 1).where(
            responses.c.id == chain.c.parent, chain.c.depth < MAX_CHAIN, *mine
        )
        chain = chain.union_all(before)
        with self._engine.connect() as connection:
            rows = connection.execute(select(chain).order_by(chain.c.depth.desc())).all()
        if not rows or rows[0].parent is not None:
            return None
        return [Link(row.id, row.whole_bytes) for row in rows]

    def load(self, subject: str, ids: Sequence[str]) -> list[StoredResponse]:
        """Return those of the responses that there are, in the order of `ids`."""
        known = [each for each in ids if _ID.fullmatch(each)]
        query = select(responses).where(
            responses.c.id.in_(known),
            responses.c.subject == subject,
            responses.c.expires_at > int(self._now()),
        )
        with self._engine.connect() as connection:
            rows = {row.id: row for row in connection.execute(query)}
        return [_stored(rows[each]) for each in known if each in rows]

    def add(
        self,
        subject: str,
        response_id: str,
        *,
        before: Sequence[str],
        input_items: bytes,
        body: bytes,
        whole_bytes: int,
        keep_s: int,
        max_bytes: int,
    ) -> bool:
        """Store a response that continues the chain `before`, whose responses are kept as long as it.

        `input_items` and `body` are compressed. The subject's oldest responses make room if all take more
        than `max_bytes`, with `ROW_BYTES` for each. Return False without storing anything if that would not
        suffice.
        """
        now = int(self._now())
        size = len(input_items) + len(body) + ROW_BYTES
        if size > max_bytes:
            return False
        values = {
            "id": response_id,
            "subject": subject,
            "parent": before[-1] if before else None,
            "created_at": now,
            "expires_at": now + keep_s,
            "stored_bytes": size,
            "whole_bytes": whole_bytes,
            "input": input_items,
            "body": body,
        }
        with transaction(self._engine) as connection:
            connection.execute(delete(responses).where(responses.c.expires_at <= now))
            connection.execute(insert(responses).values(values))
            if before:
                mine = (responses.c.id.in_(list(before)), responses.c.subject == subject)
                connection.execute(update(responses).where(*mine).values(expires_at=now + keep_s))
            _make_room(connection, subject, response_id, max_bytes)
        return True

    def remove(self, subject: str, response_id: str) -> bool:
        """Delete the response. Return False if there is none."""
        if not _ID.fullmatch(response_id):
            return False
        mine = (responses.c.id == response_id, responses.c.subject == subject)
        with transaction(self._engine) as connection:
            alive = responses.c.expires_at > int(self._now())
            return connection.execute(delete(responses).where(*mine, alive)).rowcount > 0


def _make_room(connection: Connection, subject: str, newest: str, max_bytes: int) -> None:
    mine, columns = responses.c.subject == subject, (responses.c.id, responses.c.stored_bytes)
    total = connection.execute(select(func.sum(responses.c.stored_bytes)).where(mine)).scalar_one()
    if total <= max_bytes:
        return
    # Conversations that go on before those that do not.
    order = (responses.c.id != newest, responses.c.expires_at.desc(), responses.c.created_at.desc())
    rows = connection.execute(select(*columns).where(mine).order_by(*order)).all()
    sizes = accumulate(row.stored_bytes for row in rows)
    room = max(_LEFT * max_bytes, rows[0].stored_bytes)
    surplus = [row.id for row, size in zip(rows, sizes, strict=True) if size > room]
    # Should there be more, they go with the next response.
    connection.execute(delete(responses).where(responses.c.id.in_(surplus[:_MOST_DELETED])))


def _stored(row: Row[Any]) -> StoredResponse:
    return StoredResponse(
        id=row.id,
        parent=row.parent,
        created_at=row.created_at,
        input=uncompressed(row.input),
        body=uncompressed(row.body),
    )
