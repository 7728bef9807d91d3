"""The admin API beside the gateway, on a port of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from serval.listening import bind
from serval.settings import Settings


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handling: it ends when it is told to."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving_admin(
    app: ASGIApp | None, settings: Settings, *, progress: Callable[[str], None]
) -> AsyncIterator[None]:
    """Serve the admin API meanwhile; nothing if there is none. Raises `SettingsError`."""
    if app is None or settings.admin_port is None:
        yield
        return
    with contextlib.closing(bind(settings.admin_host, settings.admin_port, "SERVAL_ADMIN_PORT")) as listener:
        config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = _QuietServer(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        progress(f"admin API on port {listener.getsockname()[1]}")
        try:
            yield
        finally:
            server.should_exit = True
            await task
