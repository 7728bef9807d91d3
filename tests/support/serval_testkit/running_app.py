"""An ASGI application on a real port, in the running event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Literal

import uvicorn.server
from starlette.types import ASGIApp

from serval.http.server import server_config, serving
from serval.settings import Settings

_TICK_S = 0.002


async def _short_sleep(_: float) -> None:
    await asyncio.sleep(_TICK_S)


# uvicorn looks every 0.1 s whether it should stop, and then sleeps 0.1 s: together ten times as long as the
# rest of a gateway's life in most of the thousands of tests that start one.
vars(uvicorn.server)["asyncio"] = SimpleNamespace(**{**vars(asyncio), "sleep": _short_sleep})


@contextlib.asynccontextmanager
async def running_app(
    app: ASGIApp,
    settings: Settings,
    *,
    lifespan: Literal["on", "off"] = "on",
    refused: Callable[[str], None] = lambda reason: None,
) -> AsyncIterator[str]:
    """Serve `app` on a free port as the gateway serves it; yields its base URL."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        config = server_config(app, settings, refused=refused, lifespan=lifespan, grace_s=1)
        async with serving(config, listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
