"""The gateway application. `create_app` builds it; nothing happens at import."""

from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

import serval
from serval.api.chat import ChatCompletions
from serval.api.completions import Completions
from serval.api.context import ApiContext, ServedModel
from serval.api.edge import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    DETOKENIZE,
    HEALTHZ,
    METRICS,
    MODELS,
    OPENAPI,
    READYZ,
    TOKENIZE,
    RequestEdge,
)
from serval.api.health import Healthz, MetricsPage, Readyz
from serval.api.models import ListModels, RetrieveModel
from serval.api.openapi import openapi_document
from serval.api.tokenize import Detokenize, Tokenize
from serval.auth.keys import configured_keys
from serval.chat.render import ChatRenderer
from serval.engine.protocol import Engine
from serval.errors import InvalidRequestError, MethodNotAllowedError, NotFoundError
from serval.settings import Settings
from serval.telemetry.metrics import Metrics


class _Application(FastAPI):
    """FastAPI with the document of plain ASGI endpoints, which it cannot read off them.

    `edge` is put around everything: it answers all errors, so Starlette's error page has no place, and each
    layer that wraps `send` costs every streamed frame a call.
    """

    edge: Callable[[ASGIApp], ASGIApp]

    def build_middleware_stack(self) -> ASGIApp:
        return self.edge(ExceptionMiddleware(self.router, handlers=self.exception_handlers))

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = openapi_document()
        return self.openapi_schema


def create_app(settings: Settings, *, engine: Engine, chat: ChatRenderer, model: ServedModel) -> FastAPI:
    """The ASGI application in front of `engine`. Raises `SettingsError` if the API keys cannot be read."""
    keys = configured_keys(settings)
    context = ApiContext(
        settings=settings,
        engine=engine,
        chat=chat,
        model=model,
        metrics=Metrics(),
        render_executor=ThreadPoolExecutor(settings.render_threads, thread_name_prefix="render"),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        context.render_executor.shutdown(wait=False, cancel_futures=True)

    app = _Application(
        title="Serval",
        version=serval.__version__,
        openapi_url=OPENAPI,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    # Plain ASGI endpoints: FastAPI's route machinery would cost more than all they do themselves.
    hot: dict[str, ASGIApp] = {
        CHAT_COMPLETIONS: ChatCompletions(context),
        COMPLETIONS: Completions(context),
    }
    app.router.routes.extend(
        [
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in hot.items()),
            Route(TOKENIZE, Tokenize(context), methods=["POST"]),
            Route(DETOKENIZE, Detokenize(context), methods=["POST"]),
            Route(MODELS, ListModels(context), methods=["GET"]),
            Route(MODELS + "/{model_id:path}", RetrieveModel(context), methods=["GET"]),
            Route(HEALTHZ, Healthz(), methods=["GET"]),
            Route(READYZ, Readyz(context), methods=["GET"]),
            Route(METRICS, MetricsPage(context), methods=["GET"]),
        ]
    )
    app.add_exception_handler(HTTPException, _raise_as_api_error)
    app.edge = lambda rest: RequestEdge(rest, hot=hot, keys=keys, metrics=context.metrics)
    return app


async def _raise_as_api_error(request: Request, error: Exception) -> NoReturn:
    """Turn what the router raises into errors of ours, which `RequestEdge` answers."""
    if not isinstance(error, HTTPException):
        raise error
    place = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        raise NotFoundError(f"Unknown URL ({place}). Check the path and the base URL of your client.")
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        raise MethodNotAllowedError(
            f"This method is not allowed here ({place}). Allowed: {allow}.", allow=allow
        )
    raise InvalidRequestError(str(error.detail))
