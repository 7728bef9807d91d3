"""The admin API and the metrics beside the gateway, on ports of their own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.types import ASGIApp

from serval.app import Applications
from serval.http.server import HttpServer, server_config
from serval.http.sockets import bind
from serval.setting_names import variable_of
from serval.settings import Settings


@contextlib.asynccontextmanager
async def side_servers(
    apps: Applications, settings: Settings, *, progress: Callable[[str], None]
) -> AsyncIterator[None]:
    """Serve the applications that have ports of their own while entered. Raises `SettingsError`."""
    async with contextlib.AsyncExitStack() as stack:
        for name, app, host, field in (
            ("admin API", apps.admin, settings.admin_host, "admin_port"),
            ("metrics", apps.metrics_page, settings.metrics_host, "metrics_port"),
        ):
            port: int | None = getattr(settings, field)
            if app is not None and port is not None:
                listening = await stack.enter_async_context(
                    _serving(app, apps, settings, (host, port), variable_of(field))
                )
                progress(f"{name} on port {listening}")
        yield


@contextlib.asynccontextmanager
async def _serving(
    app: ASGIApp, apps: Applications, settings: Settings, address: tuple[str, int], variable: str
) -> AsyncIterator[int]:
    """Serve `app` while entered; the value is the port."""
    with contextlib.closing(bind(*address, variable)) as listener:
        config = server_config(app, settings, refused=apps.metrics.request_refused, lifespan="off", grace_s=1)
        server = HttpServer(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task
