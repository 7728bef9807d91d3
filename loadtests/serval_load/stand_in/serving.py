"""Server for a stand-in, within the caller's event loop or as a program."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from serval_load.stand_in.http import Connection, Handler
from serval_load.stand_in.routes import EngineInfo

BANNER = "serval engine STAND-IN (no model, no SGLang; for load tests of the gateway only)"


class StandIn(Protocol):
    """Common interface of both engines."""

    @property
    def handle(self) -> Handler:
        """Handler of requests."""
        ...

    @property
    def busy(self) -> bool:
        """True while a request is being answered."""
        ...

    async def run(self) -> None:
        """Generate until cancelled."""
        ...


@asynccontextmanager
async def serving(engine: StandIn, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve on an address of the loopback interface; yields the URL."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(engine.handle), host, port, family=socket.AF_INET, backlog=4096
    )
    generating = asyncio.create_task(engine.run())
    try:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        generating.cancel()
        server.close()


async def serve(engine: StandIn, info: EngineInfo, *, host: str, port: int, drain_every_s: float) -> bool:
    """Serve until SIGINT or SIGTERM; print the address to standard error. False if a request was cut off.

    As SGLang does, it then reports that it is not ready, and every `drain_every_s` seconds looks whether its
    last request has ended; with 0 it ends at once.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(engine, host=host, port=port) as url:
        print(f"{BANNER} on {url}", file=sys.stderr, flush=True)
        await stop.wait()
        info.ready = False
        while drain_every_s:
            await asyncio.sleep(drain_every_s)
            if not engine.busy:
                break
        return not engine.busy
