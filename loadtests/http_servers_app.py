"""The gateway's application under one of several HTTP servers, for http_servers.py, which starts it.

    python loadtests/http_servers_app.py CANDIDATE PORT

Settings come from the environment, as the gateway's do. Under every server but our own, the application has
plain ASGI only.
"""

import asyncio
import os
import socket
import sys
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serval.app import create_apps
from serval.engine.client import connect_engine
from serval.http.server import HttpServer, server_config
from serval.live_settings import read_live_settings
from serval.process.gateway import load_backend
from serval.process.preparation import prepare
from serval.settings import Settings

CANDIDATES = ("own", "uvicorn", "uvicorn-limited", "granian")


class Gateway:
    """The application, built in the event loop of whichever server runs it, during its lifespan."""

    def __init__(self) -> None:
        self.settings = Settings()
        self._api: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Build the application for the lifespan, and pass every request on to it."""
        if scope["type"] != "lifespan":
            await self._api(scope, receive, send)
            return
        settings = self.settings
        async with connect_engine(settings) as engine:
            backend = load_backend(settings, engine, await engine.info())
            prepared = prepare(settings, read_live_settings(settings))
            self._api = create_apps(settings, backend, prepared).api
            await self._api(scope, receive, send)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's own protocol with what a subclass can add: size limits, deadlines, a limit of connections."""

    head_bytes = 64 << 10
    head_fields = 100

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._settings: Settings = self.app.settings  # type: ignore[attr-defined]
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = self._closed = False
        self._head_size = self._unfinished = 0
        sock = transport.get_extra_info("socket")
        stalled_ms = int(self._settings.stalled_client_s * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stalled_ms)
        if len(self.connections) > self._settings.max_connections:
            self._refuse(b"503 Service Unavailable")
        else:
            # uvicorn's own timer starts after the first response only.
            self._set_timer(self._settings.idle_connection_s, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if self._in_head:
            self._unfinished += len(data)
        super().data_received(data)
        if self._in_head and self._unfinished > self.head_bytes:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_size = self._unfinished = 0
        self._set_timer(self._settings.request_head_timeout_s, b"408 Request Timeout")

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if not self._closed:
            self._set_timer(self._settings.request_body_timeout_s, b"408 Request Timeout")
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._closed:
            self._set_timer(None, None)
            super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self.head_bytes or len(self.headers) > self.head_fields:
            self._refuse(b"431 Request Header Fields Too Large")

    def _set_timer(self, seconds: float | None, status: bytes | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._refuse, status)

    def _refuse(self, status: bytes | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._set_timer(None, None)
        busy = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if status is not None and not busy:
            self.transport.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        self.transport.close()


def _uvicorn(app: Gateway, http: Any) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=http,
            loop="none",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(app.settings.idle_connection_s),
        )
    )


def main(candidate: str, port: int) -> None:
    """Serve until told to stop."""
    if candidate == "granian":
        from granian import Granian  # type: ignore[import-not-found]
        from granian.http import HTTP1Settings  # type: ignore[import-not-found]

        settings = Settings()
        head_ms = int(settings.request_head_timeout_s * 1000)
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        Granian(
            "http_servers_app:Gateway",
            port=port,
            interface="asgi",
            loop="uvloop",
            http="1",
            factory=True,
            websockets=False,
            log_access=False,
            http1_settings=HTTP1Settings(header_read_timeout=head_ms, max_buffer_size=64 << 10),
        ).serve()
        return
    app = Gateway()
    servers = {
        "own": lambda: HttpServer(server_config(app, app.settings, refused=lambda code: None)),
        "uvicorn": lambda: _uvicorn(app, "httptools"),
        "uvicorn-limited": lambda: _uvicorn(app, LimitedProtocol),
    }
    with socket.create_server(("127.0.0.1", port), backlog=2048) as listener:
        uvloop.run(servers[candidate]().serve(sockets=[listener]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
