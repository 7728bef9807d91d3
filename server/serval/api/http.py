"""Reading requests and sending responses over plain ASGI."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.types import Message, Receive, Scope, Send

from serval.api.content_coding import Unpacker, content_coding_of
from serval.caller.identity import Identity
from serval.errors import ApiError, BodyTooLargeError, InvalidRequestError, error_object
from serval.http.asgi import connection_of
from serval.scheduling.body_budget import HeldBody
from serval.telemetry.record import RequestRecord
from serval.telemetry.stopwatch import CLIENT, GATEWAY

T = TypeVar("T")

_RECORD = "serval.record"
_IDENTITY = "serval.identity"
_ACCEPTED = "serval.accepted"


class ClientGoneError(Exception):
    """The client closed the connection."""


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of the header `name`, in lower case, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def attach_record(scope: Scope, record: RequestRecord) -> None:
    """Attach `record` to the request."""
    scope[_RECORD] = record


def record_of(scope: Scope) -> RequestRecord:
    """Return the request's record."""
    record: RequestRecord = scope[_RECORD]
    return record


def attach_identity(scope: Scope, identity: Identity) -> None:
    """Attach the caller's identity to the request."""
    scope[_IDENTITY] = identity


def identity_of(scope: Scope) -> Identity:
    """Return the caller's identity. Only for requests that need a key."""
    identity: Identity = scope[_IDENTITY]
    return identity


def attach_accepted(scope: Scope, identity: Identity) -> None:
    """Attach a caller who was accepted before to a request of this process's own; see `in_process`."""
    scope[_ACCEPTED] = identity


def accepted_of(scope: Scope) -> Identity | None:
    """Return the caller whom `attach_accepted` has attached. No request that comes over HTTP has one."""
    identity: Identity | None = scope.get(_ACCEPTED)
    return identity


async def read_json_body(scope: Scope, receive: Receive, *, max_bytes: int) -> bytes:
    """Read the body, of at most `max_bytes` as sent and, if it is compressed, as unpacked.

    Raises `BodyTooLargeError`, `InvalidRequestError`, `UnsupportedEncodingError` or `ClientGoneError`.
    """
    return b"".join(await read_json_pieces(scope, receive, max_bytes=max_bytes))


async def read_json_pieces(
    scope: Scope, receive: Receive, *, max_bytes: int, held: HeldBody | None = None
) -> list[bytes]:
    """Read the body as `read_json_body` does, without joining it, and count its bytes as `held`.

    Also raises what `held` raises.
    """
    fields = dict(scope["headers"])
    content_type = fields.get(b"content-type", b"application/json")
    media_type = "application/json"
    if content_type != b"application/json":
        media_type = str(content_type, "latin-1").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise InvalidRequestError(
            f"The request's content type is {media_type!r}; send JSON with 'Content-Type: application/json'.",
            code="invalid_content_type",
        )
    coding = content_coding_of(scope) if b"content-encoding" in fields else None
    unpacker = None if coding is None else Unpacker(coding, max_bytes=max_bytes, held=held)
    announced = fields.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > max_bytes:
        raise BodyTooLargeError(max_bytes)
    clock = record_of(scope).clock
    chunks: list[bytes] = []
    size = 0
    while True:
        clock.enter(CLIENT, time.perf_counter())
        message = await receive()
        clock.enter(GATEWAY, time.perf_counter())
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLargeError(max_bytes)
        if unpacker is not None:
            await unpacker.add(chunk)
        else:
            if held is not None:
                held.add(len(chunk))
            chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks if unpacker is None else unpacker.pieces()


async def send_message(send: Send, message: Message) -> None:
    """Send an ASGI message. Raises `ClientGoneError` if the server reports a disconnect by `OSError`."""
    try:
        await send(message)
    except OSError as error:
        raise ClientGoneError from error


async def send_json(
    send: Send, body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> None:
    """Send a whole JSON response."""
    await send_whole(send, body, status=status, content_type="application/json", headers=headers)


async def send_whole(
    send: Send, body: bytes, *, status: int, content_type: str, headers: Mapping[str, str] | None = None
) -> None:
    """Send a response of known length."""
    fields = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    fields += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await send_message(send, {"type": "http.response.start", "status": status, "headers": fields})
    await send_message(send, {"type": "http.response.body", "body": body})


async def send_error(
    send: Send,
    error: ApiError,
    *,
    as_object: Callable[[ApiError], dict[str, Any]] = error_object,
    status: int | None = None,
) -> None:
    """Send the error as a response, with the body that `as_object` makes; `status` replaces its own."""
    headers = dict(error.headers)
    if isinstance(error, BodyTooLargeError):
        # The rest of the body stays unread, so the connection cannot be reused.
        headers["connection"] = "close"
    body = msgspec.json.encode(as_object(error))
    await send_json(send, body, status=error.status if status is None else status, headers=headers)


async def while_connected(scope: Scope, receive: Receive, work: Awaitable[T]) -> T:
    """Return the result of `work`, or cancel it and raise `ClientGoneError` when the client disconnects.

    `work` runs in the caller's own task, and our HTTP server calls back on a disconnect: a task that waits
    for one costs as much as everything else about a small request.
    """
    connection = connection_of(scope, receive)
    task = asyncio.current_task()
    assert task is not None
    cancelling = task.cancelling()
    gone = False

    def cancel() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    connection.add_disconnect_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        # As in `asyncio.timeout`: propagate a cancellation that is not ours.
        if gone and task.uncancel() <= cancelling:
            raise ClientGoneError from None
        raise
    finally:
        connection.remove_disconnect_callback(cancel)


async def cancel_and_wait(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel the tasks and wait until they have ended, ignoring their exceptions."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
