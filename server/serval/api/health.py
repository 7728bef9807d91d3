"""`/healthz`: alive. `/readyz`: takes requests, and so does the engine. `/metrics`: for Prometheus."""

from starlette.types import Receive, Scope, Send

from serval.api.context import ApiContext
from serval.api.http import send_json, send_whole
from serval.errors import EngineUnavailableError, ShuttingDownError
from serval.telemetry.metrics import CONTENT_TYPE


class Healthz:
    """Alive: says nothing about the engine, so that a slow engine does not get the gateway restarted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send_json(send, b'{"status":"ok"}')


class Readyz:
    """Ready: asks the engine."""

    def __init__(self, context: ApiContext) -> None:
        self._engine = context.engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises `EngineUnavailableError` or `ShuttingDownError`."""
        if self._engine.slots.stopping:
            raise ShuttingDownError("This server is being stopped.")
        if not await self._engine.is_ready():
            raise EngineUnavailableError("The engine is not ready.", retry_after_s=2)
        await send_json(send, b'{"status":"ready"}')


class MetricsPage:
    """The metrics of this application."""

    def __init__(self, context: ApiContext) -> None:
        self._engine = context.engine
        self._metrics = context.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = self._metrics.exposition(engine_up=await self._engine.is_ready())
        await send_whole(send, body, status=200, content_type=CONTENT_TYPE)
