"""Pages of rows in the order of their creation."""

from typing import Any

from sqlalchemy import Connection, Row, Select, Table, or_


def page(
    connection: Connection,
    query: Select[Any],
    table: Table,
    *,
    limit: int,
    after: str | None,
    newest_first: bool = True,
) -> list[Row[Any]] | None:
    """At most `limit` rows of `query` on `table`, from behind the row with id `after`.

    Return None if `query` has no such row.
    """
    created_at, row_id = table.c.created_at, table.c.id
    if after is not None:
        last = connection.execute(query.where(row_id == after)).first()
        if last is None:
            return None
        at = last.created_at
        behind = (created_at < at, row_id < after) if newest_first else (created_at > at, row_id > after)
        query = query.where(or_(behind[0], (created_at == at) & behind[1]))
    order = (created_at.desc(), row_id.desc()) if newest_first else (created_at, row_id)
    return list(connection.execute(query.order_by(*order).limit(limit)).all())
