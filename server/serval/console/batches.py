"""The page of batches: those of all keys, the newest first; cancelling one."""

import logging
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from serval.api.batch_access import in_database, served_batches, unknown_after
from serval.api.batches import batch_object
from serval.console import endpoints
from serval.console.forms import Form
from serval.console.pages import page
from serval.console.parts import Console
from serval.console.sessions import Session
from serval.errors import NotFoundError

logger = logging.getLogger(__name__)

_SHOWN: Final = 50
# Statuses of batches that can be cancelled.
CANCELLABLE: Final = ("validating", "in_progress")


async def batches_page(console: Console, request: Request, session: Session) -> Response:
    """Return a page of the list. Raises `InvalidRequestError` or `KeyDatabaseError`."""
    batches = console.context.batches
    after = request.query_params.get("after")
    found = (
        []
        if batches is None
        else await in_database(lambda: batches.batches.list(limit=_SHOWN + 1, after=after))
    )
    if found is None:
        raise unknown_after(after)
    shown = found[:_SHOWN]
    return page(
        request,
        "batches.html",
        session=session,
        sessions=console.sessions,
        served=batches is not None,
        rows=[(batch_object(batch), batch.subject, _owner(console, batch.subject)) for batch in shown],
        after=shown[-1].id if len(found) > _SHOWN else None,
        cancellable=CANCELLABLE,
    )


async def cancel(console: Console, request: Request, session: Session, form: Form) -> Response:
    """Begin to cancel a batch; one that has ended stays as it is. Raises `NotFoundError`."""
    batch_id = request.path_params["batch_id"]
    table = served_batches(console.context).batches
    if await in_database(lambda: table.cancel(batch_id)) is None:
        raise NotFoundError(f"There is no batch {batch_id[:100]!r}.", code="batch_not_found")
    fields = {"who": session.who, "change": "cancelled", "changed_batch": batch_id}
    logger.info("batch changed in the console", extra={"fields": fields})
    return RedirectResponse(endpoints.BATCHES.path, status_code=303)


def _owner(console: Console, subject: str) -> str:
    return console.directory.name_of(subject) or subject
