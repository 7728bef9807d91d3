"""Server for a stand-in, within the caller's event loop or as a program."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from serval_load.stand_in.http import Connection, Handler

BANNER = "serval engine STAND-IN (no model, no SGLang; for load tests of the gateway only)"


class StandIn(Protocol):
    """Common interface of both engines."""

    @property
    def handle(self) -> Handler:
        """Handler of requests."""
        ...

    async def run(self) -> None:
        """Generate until cancelled."""
        ...


@asynccontextmanager
async def serving(engine: StandIn, *, port: int = 0) -> AsyncIterator[str]:
    """Serve on the loopback interface; yields the URL."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(engine.handle), "127.0.0.1", port, family=socket.AF_INET, backlog=4096
    )
    generating = asyncio.create_task(engine.run())
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        generating.cancel()
        server.close()


async def serve(engine: StandIn, *, port: int) -> None:
    """Serve until SIGINT or SIGTERM; print the address to standard error."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(engine, port=port) as url:
        print(f"{BANNER} on {url}", file=sys.stderr, flush=True)
        await stop.wait()
