"""Sending an endpoint's result: one body, or a stream of events."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from serval.api.event_stream import EventStream
from serval.api.http import record_of, send_json, while_connected
from serval.errors import ApiError
from serval.http.asgi import direct_writes_of
from serval.settings import Settings
from serval.wire.chat_response import error_event


async def send_body(
    body: Coroutine[Any, Any, bytes],
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    headers: Callable[[], Mapping[str, str]],
) -> None:
    """Send a JSON body once it is complete, with what `headers` then returns in addition to the usual ones.

    Raises `ClientGoneError`, and the errors of `body`.
    """
    await send_json(send, await while_connected(scope, receive, body), headers=headers())


async def send_events(
    write: Callable[[EventStream], Awaitable[None]],
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    settings: Settings,
    headers: Callable[[], Mapping[str, str]],
    error_event: Callable[[ApiError], bytes] = error_event,
) -> None:
    """Send the events that `write` writes, as they come.

    `headers` returns those in addition to the usual ones, when the first event or ping is sent.

    Raises `ClientGoneError`, and the errors of `write` if nothing was sent yet.
    """
    stream = EventStream(
        send,
        direct_writes_of(scope),
        record=record_of(scope),
        first_byte_s=settings.first_byte_s,
        ping_interval_s=settings.ping_interval_s,
        headers=headers,
        error_event=error_event,
    )
    await while_connected(scope, receive, stream.run(write))
