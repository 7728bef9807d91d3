"""HTTP server for an application: uvicorn, with one configuration for the API, the admin API and tests."""

import asyncio
import contextlib
import functools
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, Literal

import uvicorn
from starlette.types import ASGIApp

from serval.http.limits import HttpLimits
from serval.http.protocol import HttpProtocol
from serval.settings import Settings

# Connections accepted in one iteration of the event loop. libuv accepts one from each descriptor it listens
# on, and an iteration also serves every open connection, so in a burst the last clients would wait for
# seconds.
ACCEPTED_AT_ONCE: Final = 16


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process by the signal instead of with code 0.

    It stops when `should_exit` is set.
    """

    def __init__(self, config: uvicorn.Config, *, on_listening: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([again for each in sockets or () for again in _several(each)])
        self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(config: uvicorn.Config, listener: socket.socket) -> AsyncIterator[None]:
    """Serve on `listener` while entered. On exit requests may end, in the time that `config` gives them."""
    listening = asyncio.Event()
    server = HttpServer(config, on_listening=listening.set)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await listening.wait()
        yield
    finally:
        server.should_exit = True
        await task


def _several(listener: socket.socket) -> list[socket.socket]:
    """Duplicate `listener`'s descriptor. The event loop's server closes all but the first."""
    return [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]


def server_config(
    app: ASGIApp,
    settings: Settings,
    *,
    refused: Callable[[str], None],
    lifespan: Literal["on", "off"] = "on",
    grace_s: float | None = None,
) -> uvicorn.Config:
    """Return uvicorn's configuration for `app`.

    `refused` is called with the error code of each request that is refused before it reaches `app`.
    `grace_s`: time to wait for requests when stopping; by default from the settings.
    """
    limits = HttpLimits(
        head_timeout_s=settings.request_head_timeout_s,
        body_timeout_s=settings.request_body_timeout_s,
        idle_s=settings.idle_connection_s,
        stalled_client_s=settings.stalled_client_s,
        # The kernel distributes connections evenly among the workers.
        connections=max(1, settings.max_connections // settings.workers),
    )
    protocol = functools.partial(HttpProtocol, limits=limits, refused=refused)
    return uvicorn.Config(
        app,
        loop="none",
        http=protocol,  # type: ignore[arg-type]  # uvicorn only calls it
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        # Ignore X-Forwarded-For: it is untrusted and unused.
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s if grace_s is None else grace_s),
    )


def raise_file_limit() -> None:
    """Raise the limit of open files, and so of connections, to the highest that the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
