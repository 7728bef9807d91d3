"""Requests that this process makes of its own API, without a connection: lines of batches.

They take the way of all requests through the edge and the endpoints: limits, usage, metrics and log included.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

from serval.api.http import ClientGoneError, attach_accepted
from serval.batches.verdict import Answer
from serval.caller.identity import BULK, Identity
from serval.caller.priority import HEADER
from serval.errors import ApiError
from serval.http.asgi import CONNECTION

logger = logging.getLogger(__name__)

_HEADERS: Final = ((b"content-type", b"application/json"), (HEADER, BULK.encode()))


class _NoConnection:
    """`ClientConnection` of a client that never leaves."""

    def add_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """See `ClientConnection`."""

    def remove_disconnect_callback(self, callback: Callable[[], None]) -> None:
        """See `ClientConnection`."""


_NO_CONNECTION: Final = _NoConnection()


def request_scope(path: str) -> Scope:
    """Return the scope of a POST request of class bulk."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": list(_HEADERS),
        "client": None,
        "server": None,
        CONNECTION: _NO_CONNECTION,
    }


async def answer_in_process(app: ASGIApp, identity: Identity, path: str, body: bytes) -> Answer:
    """POST `body` to `path` for a caller who was accepted before, and return the whole answer.

    `app` is a `RequestEdge`; it refuses a caller who is accepted no more.
    """
    scope = request_scope(path)
    attach_accepted(scope, identity)
    head: dict[str, Any] = {}
    pieces: list[bytes] = []
    requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if requests:
            return requests.pop()
        # Until the answer is there; nobody disconnects.
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
        else:
            pieces.append(message.get("body", b""))

    try:
        await app(scope, receive, send)
    except (ApiError, ClientGoneError):
        raise
    except Exception:
        # The edge has answered with a 500, and leaves the traceback to the server.
        logger.exception("a line of a batch failed")
    headers = {str(name, "latin-1"): str(value, "latin-1") for name, value in head["headers"]}
    return Answer(head["status"], headers.get("x-request-id", ""), headers, b"".join(pieces))
