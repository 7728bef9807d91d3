"""The HTTP server around an application, on the event loop that the gateway uses."""

import asyncio
import contextlib
import socket

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from serval.http.server import ACCEPTED_AT_ONCE, HttpServer, server_config
from serval.http.sockets import bind
from serval.settings import Settings


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that gets no requests."""


def test_server_accepts_a_burst_in_few_turns_of_the_event_loop() -> None:
    count = 4 * ACCEPTED_AT_ONCE

    async def turns() -> int:
        listening = asyncio.Event()
        config = server_config(_nothing, Settings(), refused=lambda code: None, lifespan="off")
        server = HttpServer(config, on_listening=listening.set)
        with bind("127.0.0.1", 0, "--port") as listener, contextlib.ExitStack() as clients:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await listening.wait()
            address = listener.getsockname()
            for _ in range(count):
                clients.enter_context(socket.create_connection(address))
            taken = 0
            while len(server.server_state.connections) < count:
                await asyncio.sleep(0)
                taken += 1
                assert taken < 10_000, "connections are not accepted"
            server.should_exit = True
            await serving
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
        return taken

    # Accepting one a turn would take `count` turns; the first ones may arrive before the first turn.
    assert uvloop.run(turns()) <= count // 2
