"""Answers of a gateway from its start until its engine is ready, on the sockets that it serves on later."""

import contextlib
import socket
from collections.abc import AsyncIterator, Mapping

from serval.api.loading import create_loading_app
from serval.http.server import server_config, serving
from serval.http.sockets import url_of
from serval.process.startup import Progress
from serval.settings import Settings
from serval.telemetry.metrics import Metrics

_GRACE_S = 1


@contextlib.asynccontextmanager
async def answering_while_loading(
    listener: socket.socket,
    side_sockets: Mapping[str, socket.socket],
    settings: Settings,
    *,
    progress: Progress,
) -> AsyncIterator[None]:
    """Answer on `listener`, and on the metrics' own socket, while entered: 503 except for health and metrics.

    Connections that come between this and the real server wait in the socket's queue.
    """
    metrics = Metrics(settings.metrics_directory)
    metrics_socket = side_sockets.get("metrics_port")
    served = [(listener, settings.metrics_port is None)]
    if metrics_socket is not None:
        served.append((metrics_socket, True))
    async with contextlib.AsyncExitStack() as stack:
        for each, with_metrics in served:
            config = server_config(
                create_loading_app(metrics, with_metrics=with_metrics),
                settings,
                refused=metrics.request_refused,
                lifespan="off",
                grace_s=_GRACE_S,
            )
            # A duplicate, which the server closes; the socket itself goes on listening.
            await stack.enter_async_context(serving(config, each.dup()))
        progress(f"answering 503 on {url_of(listener)} until the engine is ready")
        yield
