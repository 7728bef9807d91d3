"""What a worker and its parent tell each other, one line each.

The worker is told the `live` settings, says `loaded`, is told to `go`, and says `serving MODEL`; or it says
`failed REASON` and ends. All workers open the port together, so that nobody meets a gateway of which only a
part serves. Whenever the live settings change the worker is told them again.
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
    """The other side has ended."""


@dataclass(frozen=True)
class Channel:
    """One side of the connection between a worker and its parent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, word: str, rest: str = "") -> None:
        """Send one line. Nothing happens if the other side has ended."""
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
        """End our side."""
        self.writer.close()

    async def finish(self) -> None:
        """End our side when all that was said is on its way."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def channel_over(connection: socket.socket) -> Channel:
    """A channel over one end of a socket pair, which it owns from now on."""
    return Channel(*await asyncio.open_connection(sock=connection, limit=_MAX_LINE_BYTES))
