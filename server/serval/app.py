"""The gateway's applications. `create_apps` builds them; nothing happens at import."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import FastAPI
from starlette.middleware.exceptions import ExceptionMiddleware
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
from serval.api.routing import ROUTING_ERRORS
from serval.api.tokenize import Detokenize, Tokenize
from serval.auth.authenticator import Authenticator
from serval.auth.factory import admin_authenticator, inference_authenticator
from serval.auth.keys import ApiKeys
from serval.caller.identity import INFERENCE
from serval.chat.render import ChatRenderer
from serval.engine.protocol import EngineInfo, ManagedEngine
from serval.grammar.dialects.longcat import LONGCAT
from serval.limits.factory import open_gate
from serval.limits.gate import Gate
from serval.live_settings import LiveSettings
from serval.scheduling.engine import schedule_engine
from serval.scheduling.slots import EngineSlots
from serval.settings import Settings
from serval.telemetry.loop_lag import watching_loop
from serval.telemetry.metrics import Metrics
from serval.telemetry.tracing import open_tracing

if TYPE_CHECKING:
    from serval.auth.directory import KeyDirectory
    from serval.auth.tokens import TokenVerifier


class _Application(FastAPI):
    """FastAPI with the document of plain ASGI endpoints, which it cannot read off them.

    The edge around it answers all errors, so Starlette's error page has no place.
    """

    def build_middleware_stack(self) -> ASGIApp:
        return ExceptionMiddleware(self.router, handlers=ROUTING_ERRORS)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = openapi_document()
        return self.openapi_schema


@dataclass(frozen=True)
class Applications:
    """What is served: the API, and the admin API if there is one. `apply` puts other settings in force."""

    api: ASGIApp
    admin: ASGIApp | None
    model: ServedModel
    metrics: Metrics
    slots: EngineSlots
    apply: Callable[[LiveSettings], None]


def create_apps(
    settings: Settings,
    *,
    engine: ManagedEngine,
    info: EngineInfo,
    chat: ChatRenderer,
    model: ServedModel,
    live: LiveSettings,
    directory: "KeyDirectory | None",
    tokens: "TokenVerifier | None" = None,
) -> Applications:
    """The ASGI applications in front of `engine`.

    `live` holds the operator's keys, `directory` the database's, `tokens` checks those of an identity
    provider.

    Raises `SettingsError` if traces cannot be made.
    """
    metrics = Metrics(settings.metrics_directory)
    behind_slots = schedule_engine(engine, settings, info, metrics)
    context = ApiContext(
        settings=settings,
        engine=behind_slots,
        chat=chat,
        model=model,
        dialect=LONGCAT,
        metrics=metrics,
        gate=open_gate(settings, None if directory is None else directory.store),
        render_executor=ThreadPoolExecutor(settings.render_threads, thread_name_prefix="render"),
    )

    tracing = open_tracing(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with _watching(behind_slots.load, directory, None if tokens is None else tokens.keys):
            with watching_loop(context.metrics.loop_was_late):
                async with context.gate.running():
                    yield
            if tracing is not None:
                await asyncio.to_thread(tracing.close)
        context.render_executor.shutdown(wait=False, cancel_futures=True)

    # Plain ASGI endpoints: FastAPI's route machinery would cost more than all they do themselves.
    hot: dict[str, ASGIApp] = {
        CHAT_COMPLETIONS: ChatCompletions(context),
        COMPLETIONS: Completions(context),
    }
    app = _application(lifespan)
    app.router.routes.extend(_routes(context, hot))
    authenticator = inference_authenticator(settings, live.keys, directory, tokens)
    # Around everything: each layer in between would cost every request a call, and every streamed frame too.
    api = RequestEdge(
        app,
        hot=hot,
        authenticator=authenticator,
        needed_scope=INFERENCE,
        metrics=metrics,
        tracing=tracing,
    )
    apply = partial(_put_in_force, authenticator, context.gate)
    apply(live)
    admin = _admin_app(settings, directory, metrics)
    return Applications(api, admin, model, metrics, behind_slots.slots, apply)


def _application(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> _Application:
    return _Application(
        title="Serval",
        version=serval.__version__,
        openapi_url=OPENAPI,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )


def _put_in_force(authenticator: Authenticator, gate: Gate, live: LiveSettings) -> None:
    authenticator.replace_keys(ApiKeys(live.keys))
    gate.replace_defaults(live.limits, reserved_completion_tokens=live.reserved_completion_tokens)


class _Watch(Protocol):
    async def watch(self) -> None:
        """Keep itself up to date, until cancelled."""


@asynccontextmanager
async def _watching(*watched: _Watch | None) -> AsyncIterator[None]:
    watches = [asyncio.create_task(each.watch()) for each in watched if each is not None]
    try:
        yield
    finally:
        for watch in watches:
            watch.cancel()


def _routes(context: ApiContext, hot: Mapping[str, ASGIApp]) -> list[Route]:
    return [
        *(Route(path, endpoint, methods=["POST"]) for path, endpoint in hot.items()),
        Route(TOKENIZE, Tokenize(context), methods=["POST"]),
        Route(DETOKENIZE, Detokenize(context), methods=["POST"]),
        Route(MODELS, ListModels(context), methods=["GET"]),
        Route(MODELS + "/{model_id:path}", RetrieveModel(context), methods=["GET"]),
        Route(HEALTHZ, Healthz(), methods=["GET"]),
        Route(READYZ, Readyz(context), methods=["GET"]),
        Route(METRICS, MetricsPage(context), methods=["GET"]),
    ]


def _admin_app(settings: Settings, directory: "KeyDirectory | None", metrics: Metrics) -> ASGIApp | None:
    if directory is None or settings.admin_port is None:
        return None
    from serval.api.admin import create_admin_app

    return create_admin_app(
        directory, authenticator=admin_authenticator(settings, directory), metrics=metrics
    )
