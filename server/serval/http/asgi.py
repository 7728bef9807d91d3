"""Optional extensions of an ASGI scope, which let an endpoint skip the costliest parts of plain ASGI.

`serval.http.protocol` provides both. Under any other server or test transport the scope has neither key, and
`connection_of` and `direct_writes_of` return substitutes that need nothing but `receive` and `send`.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from starlette.types import Receive, Scope

# Scope key of the `ClientConnection` that the request came over.
CONNECTION: Final = "serval.connection"
# Scope key of the response's `DirectWrites`.
DIRECT_WRITES: Final = "serval.direct_writes"


class ClientConnection(Protocol):
    """The client's connection, as seen by an endpoint."""

    def add_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the client disconnects."""

    def remove_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """Undo `add_disconnect_callback`."""


class DirectWrites(Protocol):
    """Writes to a streamed response body without awaiting anything.

    ASGI's `send` has to be awaited, so each frame from the engine would have to wake a task.
    """

    def write_chunk(self, data: bytes) -> bool:
        """Send `data` now. Return False, sending nothing, if only `send` can send it."""


class ReceivedDisconnect:
    """A `ClientConnection` that learns of a disconnect from ASGI's `receive`, in a task of its own."""

    def __init__(self, receive: Receive) -> None:
        """`receive` must have returned the whole request body."""
        self._receive = receive
        self._tasks: dict[Callable[[], None], asyncio.Task[None]] = {}

    def add_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """See `ClientConnection`."""
        self._tasks[callback] = asyncio.create_task(self._call_on_disconnect(callback))

    def remove_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """See `ClientConnection`."""
        self._tasks.pop(callback).cancel()

    async def _call_on_disconnect(self, callback: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        callback()


class NoDirectWrites:
    """`DirectWrites` of a server without this extension: everything goes through `send`."""

    def write_chunk(self, data: bytes) -> bool:
        """See `DirectWrites`."""
        return False


_NO_DIRECT_WRITES: Final = NoDirectWrites()


def connection_of(scope: Scope, receive: Receive) -> ClientConnection:
    """Return the client's connection. `receive` must have returned the whole request body."""
    connection: ClientConnection | None = scope.get(CONNECTION)
    return ReceivedDisconnect(receive) if connection is None else connection


def direct_writes_of(scope: Scope) -> DirectWrites:
    """Return the direct writes of this request's response."""
    writes: DirectWrites = scope.get(DIRECT_WRITES, _NO_DIRECT_WRITES)
    return writes
