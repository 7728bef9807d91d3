"""The admin API and the metrics beside the gateway, on ports of their own."""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping

from serval.app import Applications
from serval.http.server import server_config, serving
from serval.settings import Settings


@contextlib.asynccontextmanager
async def side_servers(
    apps: Applications,
    settings: Settings,
    sockets: Mapping[str, socket.socket],
    *,
    progress: Callable[[str], None],
) -> AsyncIterator[None]:
    """Serve the applications that have ports of their own while entered, on the `sockets` bound to these."""
    async with contextlib.AsyncExitStack() as stack:
        for name, app, field in (
            ("admin API", apps.admin, "admin_port"),
            ("metrics", apps.metrics_page, "metrics_port"),
        ):
            if app is not None and field in sockets:
                config = server_config(
                    app, settings, refused=apps.metrics.request_refused, lifespan="off", grace_s=1
                )
                await stack.enter_async_context(serving(config, sockets[field]))
                progress(f"{name} on port {sockets[field].getsockname()[1]}")
        yield
