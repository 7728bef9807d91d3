"""The gateway's applications. `create_apps` builds them; nothing happens at import."""

import asyncio
import importlib.util
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import FastAPI
from starlette.types import ASGIApp

from serval.api.answering import ConversationEndpoint
from serval.api.anthropic_messages import CountTokens, decode_messages
from serval.api.application import Lifespan, create_api, create_metrics_page
from serval.api.chat import decode_chat
from serval.api.completions import Completions
from serval.api.context import ApiContext, ServedModel
from serval.api.cors import with_cors
from serval.api.edge import RequestEdge
from serval.api.endpoints import (
    API,
    API_WITHOUT_METRICS,
    CHAT_COMPLETIONS,
    COMPLETIONS,
    COUNT_TOKENS,
    MESSAGES,
    METRICS_PAGE,
    RESPONSES,
)
from serval.api.openai_responses import decode_responses
from serval.auth.authenticator import Authenticator
from serval.auth.factory import inference_authenticator
from serval.auth.keys import ApiKeys
from serval.auth.running import RunningRequests
from serval.caller.prices import FREE, price_of
from serval.chat.own_turns import OwnTurns
from serval.chat.prompt_history import PromptHistory
from serval.chat.render import ChatRenderer
from serval.chat.sealed_turn import TurnSealer
from serval.engine.fleet import Fleet
from serval.engine.protocol import EngineInfo, ManagedEngine
from serval.errors import SettingsError
from serval.limits.gate import Gate
from serval.live_settings import LiveSettings
from serval.scheduling.body_budget import BodyBudget
from serval.scheduling.factory import schedule_engine
from serval.scheduling.render_queue import RenderQueue
from serval.scheduling.slots import WaitingRoom
from serval.settings import Settings
from serval.siblings import dialect_of
from serval.telemetry.loop_lag import watching_loop
from serval.telemetry.metrics import Metrics
from serval.telemetry.tracing import Tracing
from serval.usage.factory import open_usage, usage_table

if TYPE_CHECKING:
    from serval.api.kept_responses import KeptResponses
    from serval.auth.directory import KeyDirectory
    from serval.auth.tokens import TokenVerifier
    from serval.batches.service import Batches
    from serval.engine.overrides import OverrideWatch
    from serval.limits.soft_limits import SoftLimits
    from serval.usage.recorder import UsageRecorder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Applications:
    """Served applications; those without a port are None. `apply` applies changed settings."""

    api: ASGIApp
    admin: ASGIApp | None
    metrics_page: ASGIApp | None
    model: ServedModel
    metrics: Metrics
    slots: WaitingRoom[Any]
    apply: Callable[[LiveSettings], None]


@dataclass(frozen=True)
class Backend:
    """The engine, and the model that it serves."""

    engine: ManagedEngine
    info: EngineInfo
    chat: ChatRenderer
    model: ServedModel


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Parts that need no engine: keys and tokens to accept, limits, traces.

    `process/preparation.py` opens them before the engine is waited for, because opening them may fail.
    """

    live: LiveSettings
    directory: "KeyDirectory | None"
    tokens: "TokenVerifier | None"
    # None without an admin API.
    administrators: Authenticator | None
    gate: Gate
    tracing: Tracing | None
    # None without a folder for their files.
    batches: "Batches | None" = None


def create_apps(settings: Settings, backend: Backend, prepared: Prepared) -> Applications:
    """Create the applications in front of the engine."""
    live, directory, tokens = prepared.live, prepared.directory, prepared.tokens
    metrics = Metrics(settings.metrics_directory)
    behind_slots = schedule_engine(backend.engine, settings, backend.info, metrics)
    engine_orders = _engine_orders(settings, backend.engine, directory)
    authenticator = inference_authenticator(settings, live.keys, directory, tokens)
    context = ApiContext(
        settings=settings,
        engine=behind_slots,
        chat=backend.chat,
        model=backend.model,
        dialect=dialect_of(backend.chat.template_source),
        metrics=metrics,
        gate=prepared.gate,
        # A key may always have one body of the largest size.
        bodies=BodyBudget(max(settings.held_body_bytes, 2 * settings.max_body_bytes)),
        rendering=RenderQueue(
            settings.render_threads,
            inline_bytes=settings.inline_render_bytes,
            queue_limit=settings.render_queue_limit,
            timeout_s=settings.queue_timeout_s,
        ),
        running=RunningRequests(authenticator.still_accepts, check_every_s=settings.key_poll_s),
        kept_responses=_kept_responses(settings, directory),
        usage=usage_table(settings, None if directory is None else directory.store),
        sealer=_turn_sealer(settings, backend),
        prompts=PromptHistory(settings.cache_debug_bytes),
        own_turns=OwnTurns(settings.own_turns_bytes),
        batches=prepared.batches,
    )

    soft_limits = _soft_limits(settings, prepared, metrics)
    usage = open_usage(
        settings, context.usage, model=backend.model.name, dropped=context.metrics.usage_dropped
    )

    hot = _hot_endpoints(context)
    endpoints = API if settings.metrics_port is None else API_WITHOUT_METRICS
    app = create_api(
        endpoints,
        max_body_bytes=settings.max_body_bytes,
        lifespan=_lifespan(context, prepared, engine_orders, usage, soft_limits),
    )
    app.state.context = context
    app.state.hot = hot
    # Outermost: every layer in between would cost a call for each request and each streamed frame.
    api = RequestEdge(
        app,
        hot=hot,
        endpoints=endpoints,
        authenticator=authenticator,
        metrics=metrics,
        tracing=prepared.tracing,
        usage=usage,
    )
    app.state.edge = api
    apply = partial(_put_in_force, authenticator, context.gate, context.model, metrics)
    apply(live)
    admin = _admin_app(prepared, engine_orders, context, backend.engine, app)
    metrics_page = None if settings.metrics_port is None else _metrics_page(context, authenticator)
    published = with_cors(api, settings.cors_origins)
    return Applications(published, admin, metrics_page, backend.model, metrics, behind_slots.slots, apply)


def _hot_endpoints(context: ApiContext) -> dict[str, ASGIApp]:
    # Raw ASGI endpoints: FastAPI's route machinery would cost more than the endpoints themselves.
    return {
        CHAT_COMPLETIONS.path: ConversationEndpoint(context, decode_chat),
        COMPLETIONS.path: Completions(context),
        MESSAGES.path: ConversationEndpoint(context, decode_messages),
        COUNT_TOKENS.path: CountTokens(context),
        RESPONSES.path: ConversationEndpoint(context, decode_responses),
    }


def _lifespan(
    context: ApiContext,
    prepared: Prepared,
    engine_orders: "OverrideWatch | None",
    usage: "UsageRecorder | None",
    soft_limits: "SoftLimits | None",
) -> Lifespan:
    """Return the work beside the requests, from before the first until after the last."""
    issuer_keys = None if prepared.tokens is None else prepared.tokens.keys

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _watching(
            context.engine.load, prepared.directory, engine_orders, issuer_keys, context.running, soft_limits
        ):
            with watching_loop(context.metrics.loop_was_late):
                async with (
                    context.gate.lifespan(),
                    nullcontext() if usage is None else usage.lifespan(),
                    _running_batches(context, app.state.edge),
                ):
                    yield
            if prepared.tracing is not None:
                await asyncio.to_thread(prepared.tracing.close)
        context.rendering.close()

    return lifespan


def _running_batches(context: ApiContext, edge: ASGIApp) -> AbstractAsyncContextManager[None]:
    if context.batches is None:
        return nullcontext()
    # SQLAlchemy is loaded only where there is a database.
    from serval.api.batch_service import batches_running

    return batches_running(context, context.batches, edge)


def _kept_responses(settings: Settings, directory: "KeyDirectory | None") -> "KeptResponses | None":
    if directory is None or settings.responses_keep_s == 0:
        return None
    # SQLAlchemy is loaded only where there is a database.
    from serval.api.kept_responses import KeptResponses
    from serval.store.responses import ResponseTable

    return KeptResponses(
        ResponseTable(directory.store.engine),
        keep_s=settings.responses_keep_s,
        max_bytes=settings.responses_max_bytes,
    )


def _engine_orders(
    settings: Settings, engine: ManagedEngine, directory: "KeyDirectory | None"
) -> "OverrideWatch | None":
    if directory is None or not isinstance(engine, Fleet):
        return None
    # SQLAlchemy is loaded only where there is a database.
    from serval.engine.overrides import OverrideWatch
    from serval.store.engine_overrides import OverrideTable

    return OverrideWatch(OverrideTable(directory.store.engine), engine, poll_s=settings.key_poll_s)


def _turn_sealer(settings: Settings, backend: Backend) -> TurnSealer | None:
    if settings.seal_secret is None:
        return None
    if importlib.util.find_spec("cryptography") is None:
        raise SettingsError(
            "SERVAL_SEAL_SECRET needs cryptography; install it with: pip install 'serval-llm[seal]'"
        )
    if not backend.chat.can_continue:
        raise SettingsError(
            "SERVAL_SEAL_SECRET is set, but the model's chat template renders a turn differently once others"
            " follow it, so that its tokens cannot be continued; unset it"
        )
    return TurnSealer(
        settings.seal_secret.get_secret_value(),
        model=backend.model.name,
        files=backend.chat.files,
        vocabulary_size=backend.chat.tokenizer.vocabulary_size,
        max_tokens=backend.model.context_length,
        keep_s=settings.seal_keep_s,
    )


def _soft_limits(settings: Settings, prepared: Prepared, metrics: Metrics) -> "SoftLimits | None":
    directory = prepared.directory
    if directory is None:
        return None
    # SQLAlchemy is loaded only where there is a database.
    from serval.limits.soft_limits import SoftLimits
    from serval.store.budget_notices import BudgetNotices

    webhook = settings.budget_webhook
    soft_limits = SoftLimits(
        BudgetNotices(directory.store.engine),
        webhook=None if webhook is None else webhook.get_secret_value(),
        name_of=directory.name_of,
        reported=metrics.soft_limit_reached,
    )
    prepared.gate.on_soft_limit = soft_limits.note
    return soft_limits


def _put_in_force(
    authenticator: Authenticator, gate: Gate, model: ServedModel, metrics: Metrics, live: LiveSettings
) -> None:
    authenticator.replace_keys(ApiKeys(live.keys))
    gate.replace_defaults(live.limits, reserved_completion_tokens=live.reserved_completion_tokens)
    model.aliases.replace(live.model_aliases)
    price = price_of(model.name, live.prices)
    if price is None and live.prices:
        logger.error("the file of prices has none of the model %r: its tokens cost nothing", model.name)
    gate.price = price or FREE
    metrics.settings_read()


class _Watch(Protocol):
    async def watch(self) -> None:
        """Stay up to date until cancelled."""


@asynccontextmanager
async def _watching(*watched: _Watch | None) -> AsyncIterator[None]:
    watches = [asyncio.create_task(each.watch()) for each in watched if each is not None]
    try:
        yield
    finally:
        for watch in watches:
            watch.cancel()


def _metrics_page(context: ApiContext, authenticator: Authenticator) -> ASGIApp:
    app = create_metrics_page()
    app.state.context = context
    return RequestEdge(
        app,
        hot={},
        endpoints=METRICS_PAGE,
        authenticator=authenticator,
        metrics=context.metrics,
        tracing=None,
    )


def _admin_app(
    prepared: Prepared,
    engine_orders: "OverrideWatch | None",
    context: ApiContext,
    engine: ManagedEngine,
    api: FastAPI,
) -> ASGIApp | None:
    if prepared.directory is None or prepared.administrators is None:
        return None
    # SQLAlchemy is loaded only where there is a database.
    from serval.api.admin import create_admin_app
    from serval.console.application import beside_console, create_console

    admin = create_admin_app(
        prepared.directory,
        engine_orders=engine_orders,
        authenticator=prepared.administrators,
        metrics=context.metrics,
        inference_document=api.openapi,
    )
    if not context.settings.console:
        return admin
    console = create_console(
        context,
        api=api.state.edge,
        engine=engine,
        directory=prepared.directory,
        administrators=prepared.administrators,
        tokens=prepared.tokens,
    )
    return beside_console(admin, console)
