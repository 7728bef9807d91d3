"""A gateway process: wait for the engine, load the tokenizer, serve until stopped.

`serval gateway` calls `run_gateway`, which serves by itself; a worker calls `serve`.
"""

import asyncio
import contextlib
import gc
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from serval.api.context import ServedModel
from serval.app import Applications, Backend, create_apps
from serval.chat import ChatRenderer
from serval.engine.connect import connect
from serval.engine.model_check import PROBE
from serval.engine.protocol import EngineInfo, ManagedEngine
from serval.errors import ModelFilesError
from serval.http.server import HttpServer, raise_file_limit, server_config
from serval.http.sockets import bind, url_of
from serval.live_settings import LiveSettings
from serval.process.loading import answering_while_loading
from serval.process.preparation import load_chat_of, prepare, side_sockets
from serval.process.reloading import settings_changes
from serval.process.side_servers import side_servers
from serval.process.signals import stop_on_signals
from serval.process.startup import Progress, initial_live_settings, print_progress, wait_for_engine
from serval.scheduling.slots import WaitingRoom
from serval.settings import Settings
from serval.siblings import doubts

logger = logging.getLogger(__name__)

_FINAL_SEND_S = 2


async def _serve_at_once() -> None:
    """The default of `Lifecycle.on_loaded`: a single process waits for no other."""


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """The stages of a gateway's life, directed by its own process or by the parent of the workers."""

    stop: asyncio.Event
    # The settings at the start, and every later version.
    live: LiveSettings
    changes: AsyncIterator[LiveSettings]
    progress: Progress
    # Awaited when everything is loaded, before the first connection is accepted.
    on_loaded: Callable[[], Awaitable[None]] = _serve_at_once
    # Called with the model's name when connections are accepted.
    on_serving: Callable[[str], None]
    replaces_worker: bool = False
    # Serves the applications that have ports of their own; only one of several workers does.
    side_servers: bool = True


def run_gateway(settings: Settings, *, progress: Progress = print_progress) -> None:
    """Serve in this process until SIGINT or SIGTERM, then let running requests end.

    Raises a `ServalError` if it cannot start.
    """

    async def main() -> None:
        reread = asyncio.Event()
        stop = stop_on_signals(on_hangup=reread.set)
        live = initial_live_settings(settings, progress=progress)
        with contextlib.closing(bind(settings.host, settings.port, "--port")) as listener:
            lifecycle = Lifecycle(
                stop=stop,
                live=live,
                changes=settings_changes(settings, live, requested=reread),
                progress=progress,
                on_serving=lambda model: progress(f"serving {model} on {url_of(listener)}"),
            )
            await serve(listener, settings, lifecycle)

    raise_file_limit()
    uvloop.run(main())


async def serve(listener: socket.socket, settings: Settings, lifecycle: Lifecycle) -> None:
    """Serve on a bound socket until `lifecycle.stop` is set. Raises a `ServalError` if it cannot start."""
    async with contextlib.AsyncExitStack() as stack:
        # Before the engine is waited for, so that a mistake in the settings or files is reported immediately.
        sockets = stack.enter_context(side_sockets(settings)) if lifecycle.side_servers else {}
        prepared = prepare(settings, lifecycle.live)
        chat = None if settings.model is None else load_chat_of(settings, settings.model)
        tokens = None if chat is None else chat.tokenizer.encode_text(PROBE)
        engine = await stack.enter_async_context(connect(settings, tokens))
        async with _listening_unless_ready(engine, listener, sockets, settings, lifecycle):
            info = await wait_for_engine(engine, settings, stop=lifecycle.stop, progress=lifecycle.progress)
        if info is None:
            return
        apps = create_apps(settings, load_backend(settings, engine, info, chat), prepared)
        if lifecycle.replaces_worker:
            apps.metrics.worker_restarted()
        server = HttpServer(
            server_config(apps.api, settings, refused=apps.metrics.request_refused),
            on_listening=lambda: lifecycle.on_serving(apps.model.name),
        )
        # Objects made during start-up live as long as the process; the collector need not visit them.
        gc.collect()
        gc.freeze()
        await lifecycle.on_loaded()
        background = [
            asyncio.create_task(_stop_server(server, lifecycle.stop, settings, apps.slots, engine)),
            asyncio.create_task(_apply_changes(lifecycle.changes, apps)),
        ]
        try:
            async with side_servers(apps, settings, sockets, progress=lifecycle.progress):
                await server.serve(sockets=[listener])
        finally:
            for task in background:
                task.cancel()


@contextlib.asynccontextmanager
async def _listening_unless_ready(
    engine: ManagedEngine,
    listener: socket.socket,
    side_sockets: Mapping[str, socket.socket],
    settings: Settings,
    lifecycle: Lifecycle,
) -> AsyncIterator[None]:
    """Answer while entered, if the engine is not ready.

    A worker that replaces another does not: its 503 would be among the answers of those that serve.
    """
    if lifecycle.replaces_worker or await engine.is_ready():
        yield
        return
    async with answering_while_loading(listener, side_sockets, settings, progress=lifecycle.progress):
        yield


def load_backend(
    settings: Settings, engine: ManagedEngine, info: EngineInfo, chat: ChatRenderer | None = None
) -> Backend:
    """The engine with the tokenizer and template of its model, which `chat` holds if they are loaded.

    Raises `ModelFilesError`.
    """
    folder = settings.model or Path(info.model_path)
    if settings.model is None and not folder.is_dir():
        raise ModelFilesError(
            f"the engine serves {info.model_path!r}, which is not a folder on this machine; name the folder"
            " with the model's tokenizer and chat template with --model"
        )
    chat = chat or load_chat_of(settings, folder)
    for doubt in doubts(folder.resolve().name, chat.template_source, chat.template_variables):
        logger.warning("%s", doubt)
    model = ServedModel(
        name=settings.served_model_name or folder.resolve().name,
        # The files' time, not this process's: all replicas and restarts report the same.
        created=int((folder / "tokenizer.json").stat().st_mtime),
        context_length=info.context_length,
        max_prompt_tokens=info.max_prompt_tokens,
        checkpoint=info.checkpoint,
    )
    return Backend(engine, info, chat, model)


async def _apply_changes(changes: AsyncIterator[LiveSettings], apps: Applications) -> None:
    async for live in changes:
        apps.apply(live)


async def _stop_server(
    server: HttpServer,
    stop: asyncio.Event,
    settings: Settings,
    slots: WaitingRoom[Any],
    engine: ManagedEngine,
) -> None:
    """Drain when `stop` is set: refuse new requests, and exit when the running ones have ended.

    Requests that outlast the grace period end with an error rather than in mid-stream.
    """
    await stop.wait()
    end = time.monotonic() + settings.shutdown_grace_s
    if not await slots.stop(grace_s=settings.shutdown_grace_s):
        engine.interrupt()
    # Time for the last answers to be sent.
    server.config.timeout_graceful_shutdown = max(_FINAL_SEND_S, math.ceil(end - time.monotonic()))
    server.should_exit = True
