"""Sending what an endpoint makes: a stream of events, or one body."""

from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any

from starlette.types import Scope, Send

from serval.api.event_stream import EventStream
from serval.api.http import record_of, send_json, while_connected
from serval.settings import Settings


async def send_answer(
    answer: AsyncGenerator[bytes, None] | Coroutine[Any, Any, bytes],
    scope: Scope,
    send: Send,
    *,
    settings: Settings,
    headers: Mapping[str, str],
) -> None:
    """Send a generator's events as they come, a coroutine's body when it is whole.

    `headers` are sent beside the usual ones. Raises `ClientGoneError`, and the answer's own errors if nothing
    was sent yet.
    """
    if isinstance(answer, Coroutine):
        await send_json(send, await while_connected(scope, answer), headers=headers)
        return
    stream = EventStream(
        send,
        record=record_of(scope),
        first_byte_s=settings.first_byte_s,
        ping_interval_s=settings.ping_interval_s,
        headers=headers,
    )
    await while_connected(scope, stream.run(answer))
