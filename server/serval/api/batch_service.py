"""Running batches beside the requests of this process.

SQLAlchemy is loaded with this module, so only gateways that run batches import it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.types import ASGIApp

from serval.api.batch_checks import body_check
from serval.api.context import ApiContext
from serval.api.in_process import answer_in_process
from serval.batches.room import Room
from serval.batches.service import Batches, running_batches


@asynccontextmanager
async def batches_running(context: ApiContext, batches: Batches, edge: ASGIApp) -> AsyncIterator[None]:
    """Run batches while entered; their lines are requests to `edge`, the application as clients see it."""

    settings = context.settings
    room = Room(most=settings.batch_concurrency, busy=settings.batch_concurrency_busy)

    def allowed(running: int) -> int:
        slots = context.engine.slots
        return room.allowed(slots.in_use + slots.waiting - running)

    async with running_batches(
        batches,
        settings,
        answer=partial(answer_in_process, edge),
        checks=partial(body_check, context),
        model=context.model.name,
        allowed=allowed,
        count=context.metrics.batches.line_run,
        show=context.metrics.batches.show_batches,
    ):
        yield
