"""FastAPI applications behind a `RequestEdge`, and their OpenAPI documents."""

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

import serval
from serval.api import batches, files, health, inference, models, response_routes, tokenize, usage, welcome
from serval.api.dependencies import api_key
from serval.api.endpoints import API, METRICS, METRICS_PAGE, OPENAPI, EndpointTable
from serval.api.exception_handlers import exception_handlers
from serval.api.responses import COMMON_HEADERS, EVERYWHERE, WITH_KEY, success
from serval.wire.answers import ErrorAnswer
from serval.wire.components import model_components

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Document(BaseModel):
    """An OpenAPI document."""

    openapi: str
    paths: dict[str, Any]


class Application(FastAPI):
    """FastAPI application that leaves errors to the edge and completes its document.

    Routes read `state`: `max_body_bytes`, and the parts added by the functions that create applications.
    """

    def __init__(
        self,
        endpoints: EndpointTable,
        *,
        title: str,
        description: str,
        max_body_bytes: int,
        schemas: Callable[[], Mapping[str, Any]] = dict,
        lifespan: Lifespan | None = None,
    ) -> None:
        """`schemas` creates the components that routes refer to and FastAPI cannot derive."""
        super().__init__(
            title=title,
            description=description,
            version=serval.__version__,
            license_info={"name": "MIT", "identifier": "MIT"},
            # `document_router` serves the document; FastAPI's own page loads assets from a CDN.
            openapi_url=None,
            redirect_slashes=False,
            strict_content_type=False,
            generate_unique_id_function=_operation_id,
            responses={**EVERYWHERE},
            exception_handlers=dict(exception_handlers(endpoints)),
            lifespan=lifespan,
        )
        self.state.max_body_bytes = max_body_bytes
        self._schemas = schemas
        self._document_lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # FastAPI's routes do not answer HEAD, so it is handled as GET; the server omits the body.
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return FastAPI's document with the components it cannot derive and without its 422 responses."""
        with self._document_lock:
            document = super().openapi()
            if "headers" not in document["components"]:
                self._complete(document)
        return document

    def _complete(self, document: dict[str, Any]) -> None:
        components = document["components"]
        components["headers"] = COMMON_HEADERS
        components["schemas"] |= {**self._schemas(), **model_components([ErrorAnswer])}
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)


def _operation_id(route: APIRoute) -> str:
    return route.name


def document_router(path: str, **options: Any) -> APIRouter:
    """Return the route of the application's own document; `options` are FastAPI's."""
    router = APIRouter(**options)

    # A plain function runs in a thread: creating the document takes a tenth of a second.
    @router.get(path, summary="This document", response_model=Document)
    def openapi_document(request: Request) -> JSONResponse:
        return JSONResponse(request.app.openapi())

    return router


def create_api(
    endpoints: EndpointTable = API, *, max_body_bytes: int = 0, lifespan: Lifespan | None = None
) -> Application:
    """Create the API with `endpoints`, which are `API` or `API_WITHOUT_METRICS`.

    Its routes need `state.context` and `state.hot`, the hot endpoints by path; its document needs neither.
    """
    app = Application(
        endpoints,
        title="Serval",
        description="OpenAI-compatible inference server; server/API.md says where it differs.",
        max_body_bytes=max_body_bytes,
        schemas=inference.inference_schemas,
        lifespan=lifespan,
    )
    document = document_router(
        OPENAPI.path, dependencies=[Depends(api_key)], responses={**success(), **WITH_KEY}
    )
    for router in (
        inference.router,
        response_routes.router,
        files.router,
        batches.router,
        tokenize.router,
        models.router,
        usage.router,
        document,
        welcome.router,
        health.liveness,
        health.router,
        *([health.metrics_router] if METRICS in endpoints.endpoints else []),
    ):
        app.include_router(router)
    return app


def create_metrics_page() -> Application:
    """Create the application of the metrics' own port. Its routes need `state.context`."""
    app = Application(
        METRICS_PAGE, title="Serval's metrics", description="Metrics of a gateway.", max_body_bytes=0
    )
    for router in (health.liveness, health.metrics_router):
        app.include_router(router)
    return app
