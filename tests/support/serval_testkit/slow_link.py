"""A proxy for a Unix socket that delays everything, to simulate a server that is slow but answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path


class SlowLink:
    """The proxy. `delay_s` delays each piece in either direction, and may be changed at any time."""

    def __init__(self, server: Path, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        # Pieces passed on so far, as evidence that the proxy was used.
        self.passed = 0
        self._server = server
        self._passing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def at(self, path: Path) -> AsyncIterator[None]:
        """Listen at `path` while entered."""
        listening = await asyncio.start_unix_server(self._connected, path)
        try:
            yield
        finally:
            listening.close()
            for task in self._passing:
                task.cancel()
            await asyncio.gather(*self._passing, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_unix_connection(self._server)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.closing(sink), contextlib.suppress(OSError):
            while piece := await source.read(1 << 16):
                await asyncio.sleep(self.delay_s)
                self.passed += 1
                sink.write(piece)
                await sink.drain()
