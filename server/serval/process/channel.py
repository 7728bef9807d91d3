"""The line protocol between a worker and its parent.

The parent sends `live SETTINGS`, the worker `loaded`, the parent `go`, the worker `serving MODEL`. A worker
that cannot start sends `failed REASON` and ends. All workers open the port together, so that no
client reaches a partly started gateway. The parent sends `live SETTINGS` again whenever they change.
"""

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import Final

LOADED: Final = "loaded"
SERVING: Final = "serving"
FAILED: Final = "failed"
GO: Final = "go"
LIVE: Final = "live"

# The live settings hold all keys of the operator.
_MAX_LINE_BYTES: Final = 1 << 24


class ChannelClosedError(Exception):
    """The other end of the channel is closed."""


@dataclass(frozen=True)
class Channel:
    """One end of the connection between a worker and its parent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, word: str, rest: str = "") -> None:
        """Send one line; a closed connection is ignored."""
        self.writer.write(f"{word} {' '.join(rest.split())}\n".encode())

    async def receive(self) -> tuple[str, str]:
        """The next line: its first word, and the rest. Raises `ChannelClosedError`."""
        try:
            line = await self.reader.readline()
        except OSError as error:
            raise ChannelClosedError from error
        if not line.endswith(b"\n"):
            raise ChannelClosedError
        word, _, rest = line.decode().rstrip("\n").partition(" ")
        return word, rest

    def close(self) -> None:
        """Close this end."""
        self.writer.close()

    async def finish(self) -> None:
        """Close this end after everything has been sent."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def channel_over(connection: socket.socket) -> Channel:
    """A channel over one end of a socket pair, which it takes over."""
    return Channel(*await asyncio.open_connection(sock=connection, limit=_MAX_LINE_BYTES))
