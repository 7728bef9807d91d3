"""`/healthz`, `/readyz` and, for Prometheus, `/metrics`."""

from typing import Literal

from fastapi import APIRouter
from starlette.responses import Response

from serval.api.dependencies import Context
from serval.api.endpoints import HEALTHZ, METRICS, READYZ
from serval.api.responses import success
from serval.errors import EngineUnavailableError, ShuttingDownError
from serval.telemetry.metrics import CONTENT_TYPE
from serval.wire.answers import Answer

# Served by every application.
liveness = APIRouter(responses=success())
router = APIRouter(responses=success())
metrics_router = APIRouter(responses=success())


class Alive(Answer):
    """The gateway is alive."""

    status: Literal["ok"]


class Ready(Answer):
    """The gateway and the engine take requests."""

    status: Literal["ready"]


@liveness.get(HEALTHZ.path, summary="Check that the gateway is alive")
async def healthz() -> Alive:
    """Independent of the engine, so that a slow engine does not get the gateway restarted."""
    return Alive(status="ok")


@router.get(READYZ.path, summary="Check that the engine takes requests")
async def readyz(context: Context) -> Ready:
    if context.engine.slots.stopping:
        raise ShuttingDownError("This server is being stopped.")
    if not await context.engine.is_ready():
        raise EngineUnavailableError("The engine is not ready.", retry_after_s=2)
    return Ready(status="ready")


@metrics_router.get(
    METRICS.path,
    summary="Prometheus metrics",
    response_class=Response,
    responses=success(content={"text/plain": {"schema": {"type": "string"}}}),
)
async def metrics(context: Context) -> Response:
    body = context.metrics.exposition(engine_up=await context.engine.is_ready())
    return Response(body, media_type=CONTENT_TYPE)
