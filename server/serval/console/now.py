"""The page *now*: load, speed, engines and the last errors."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serval.console.engine_rows import engine_rows
from serval.console.pages import page, part
from serval.console.parts import Console
from serval.console.sessions import Session


async def now_page(console: Console, request: Request, session: Session) -> Response:
    """Return the page, whose script renews the figures."""
    values = await _values(console)
    return page(request, "now.html", session=session, sessions=console.sessions, **values)


async def figures_part(console: Console, request: Request, session: Session) -> Response:
    """Return the figures alone."""
    return part("figures.html", **await _values(console))


async def _values(console: Console) -> dict[str, Any]:
    metrics = console.context.metrics
    engines = await engine_rows(console.engine)
    up = any(row.state == "ready" for row in engines)
    # Reading the metrics of several workers takes tens of milliseconds.
    exposition = await asyncio.to_thread(metrics.exposition, engine_up=up)
    return {
        "figures": console.samples.figures(exposition),
        "engines": engines,
        "errors": metrics.recent_errors.latest_first()[:20],
        "workers": console.context.settings.workers,
        "model": console.context.model.name,
    }
