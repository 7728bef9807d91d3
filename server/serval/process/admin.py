"""The admin API beside the gateway, on a port of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from serval.app import Applications
from serval.http.server import HttpServer, server_config
from serval.http.sockets import bind
from serval.settings import Settings


@contextlib.asynccontextmanager
async def admin_server(
    apps: Applications, settings: Settings, *, progress: Callable[[str], None]
) -> AsyncIterator[None]:
    """Serve the admin API while entered; does nothing if there is none. Raises `SettingsError`."""
    if apps.admin is None or settings.admin_port is None:
        yield
        return
    with contextlib.closing(bind(settings.admin_host, settings.admin_port, "SERVAL_ADMIN_PORT")) as listener:
        config = server_config(
            apps.admin, settings, refused=apps.metrics.request_refused, lifespan="off", grace_s=1
        )
        server = HttpServer(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        progress(f"admin API on port {listener.getsockname()[1]}")
        try:
            yield
        finally:
            server.should_exit = True
            await task
