"""Application of a gateway whose engine is not ready yet: health, metrics, and 503 for all else."""

from typing import Final

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serval.api.edge import RequestEdge
from serval.api.endpoints import HEALTHZ, METRICS, READYZ, EndpointTable
from serval.auth.authenticator import Authenticator
from serval.auth.keys import ApiKeys
from serval.errors import EngineUnavailableError
from serval.telemetry.metrics import CONTENT_TYPE, Metrics

# A start takes minutes, so a client that asks every few seconds learns nothing from it.
RETRY_AFTER_S: Final = 10


def create_loading_app(metrics: Metrics, *, with_metrics: bool) -> ASGIApp:
    """Create the application; `/metrics` is part of it if `with_metrics`. No request needs a key."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == HEALTHZ.path:
            response: Response = JSONResponse({"status": "ok"})
        elif with_metrics and path == METRICS.path:
            response = Response(metrics.exposition(engine_up=False), media_type=CONTENT_TYPE)
        else:
            raise EngineUnavailableError(
                "The engine is being loaded. Try again shortly.", retry_after_s=RETRY_AFTER_S
            )
        await response(scope, receive, send)

    endpoints = (HEALTHZ, READYZ, METRICS) if with_metrics else (HEALTHZ, READYZ)
    return RequestEdge(
        app,
        hot={},
        endpoints=EndpointTable(endpoints, scope=None),
        # Never asked, as no endpoint has a scope.
        authenticator=Authenticator(ApiKeys(()), None, None, scopes=frozenset(), open_without_keys=False),
        metrics=metrics,
    )
