"""Running the gateway: wait for the engine, load the tokenizer, serve until told to stop.

`serval gateway` calls `run_gateway`; a caller with an event loop of its own uses `serve_gateway`.
"""

import asyncio
import contextlib
import gc
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from serval.api.context import ServedModel
from serval.app import Applications, create_apps
from serval.auth.factory import open_directory, open_tokens
from serval.chat import load_chat
from serval.engine.client import connect_engine
from serval.engine.protocol import EngineInfo, ManagedEngine
from serval.errors import ModelFilesError
from serval.http.server import HttpServer, raise_file_limit, server_config
from serval.http.sockets import bind, url_of
from serval.live_settings import LiveSettings
from serval.process.admin import serving_admin
from serval.process.reloading import settings_changes
from serval.process.signals import stopped_by_signal
from serval.process.startup import Progress, first_live_settings, print_progress, wait_for_engine
from serval.scheduling.slots import EngineSlots
from serval.settings import Settings

if TYPE_CHECKING:
    from serval.auth.directory import KeyDirectory
    from serval.auth.tokens import TokenVerifier


_LAST_WORDS_S = 2


@dataclass(frozen=True)
class Announcements:
    """What a starting gateway tells: what it waits for, that it could serve now, that it serves `model`."""

    progress: Progress
    loaded: Callable[[], Awaitable[None]]
    serving: Callable[[str], None]


def run_gateway(settings: Settings, *, progress: Progress = print_progress) -> None:
    """Serve in this process until SIGINT or SIGTERM, then let running requests end.

    Raises a `ServalError` if it cannot start.
    """

    async def main() -> None:
        reread = asyncio.Event()
        stop = stopped_by_signal(on_hangup=reread.set)
        await serve_gateway(settings, stop=stop, reread=reread, progress=progress)

    raise_file_limit()
    uvloop.run(main())


async def serve_gateway(
    settings: Settings,
    *,
    stop: asyncio.Event,
    reread: asyncio.Event,
    progress: Progress = print_progress,
) -> None:
    """Serve until `stop` is set; `reread` set: read keys and limits again at once.

    Raises a `ServalError` if it cannot start.
    """
    live = first_live_settings(settings, progress=progress)

    async def loaded() -> None:
        """There is nobody to wait for."""

    with contextlib.closing(bind(settings.host, settings.port, "--port")) as listener:
        announcements = Announcements(
            progress, loaded, lambda model: progress(f"serving {model} on {url_of(listener)}")
        )
        changes = settings_changes(settings, live, asked=reread)
        await serve_on(listener, settings, stop=stop, announcements=announcements, live=live, changes=changes)


async def serve_on(
    listener: socket.socket,
    settings: Settings,
    *,
    stop: asyncio.Event,
    announcements: Announcements,
    live: LiveSettings,
    changes: AsyncIterator[LiveSettings],
    again: bool = False,
) -> None:
    """Serve on a bound socket until `stop` is set, with `live` at first and then with what `changes` brings.

    `again`: in place of a process that ended without being told to.
    Raises a `ServalError` if it cannot start.
    """
    progress = announcements.progress
    directory = open_directory(settings)
    tokens = open_tokens(settings)
    async with connect_engine(settings) as engine:
        info = await wait_for_engine(engine, settings, stop=stop, progress=progress)
        if info is None:
            return
        apps = build_apps(settings, engine=engine, info=info, live=live, directory=directory, tokens=tokens)
        if again:
            apps.metrics.worker_restarted()
        server = HttpServer(
            server_config(apps.api, settings, refused=apps.metrics.request_refused),
            on_listening=lambda: announcements.serving(apps.model.name),
        )
        # What start-up made lives as long as the process; the collector need not walk over it.
        gc.collect()
        gc.freeze()
        await announcements.loaded()
        stopper = asyncio.create_task(_stop_server(server, stop, settings, apps.slots, engine))
        taker = asyncio.create_task(_apply_changes(changes, apps))
        try:
            async with serving_admin(apps, settings, progress=progress):
                await server.serve(sockets=[listener])
        finally:
            stopper.cancel()
            taker.cancel()


async def _apply_changes(changes: AsyncIterator[LiveSettings], apps: Applications) -> None:
    async for live in changes:
        apps.apply(live)


def build_apps(
    settings: Settings,
    *,
    engine: ManagedEngine,
    info: EngineInfo,
    live: LiveSettings,
    directory: "KeyDirectory | None",
    tokens: "TokenVerifier | None" = None,
) -> Applications:
    """The applications for the engine described by `info`. Raises `ModelFilesError` or `SettingsError`."""
    folder = settings.model or Path(info.model_path)
    if settings.model is None and not folder.is_dir():
        raise ModelFilesError(
            f"the engine serves {info.model_path!r}, which is not a folder on this machine; name the folder"
            " with the"
            " model's tokenizer and chat template with --model"
        )
    chat = load_chat(folder, segment_cache_bytes=settings.segment_cache_bytes)
    model = ServedModel(
        name=settings.served_model_name or folder.resolve().name,
        # Of the files, not of this process: all replicas and restarts tell the same.
        created=int((folder / "tokenizer.json").stat().st_mtime),
        context_length=info.context_length,
        max_prompt_tokens=info.max_prompt_tokens,
    )
    return create_apps(
        settings,
        engine=engine,
        info=info,
        chat=chat,
        model=model,
        live=live,
        directory=directory,
        tokens=tokens,
    )


async def _stop_server(
    server: HttpServer, stop: asyncio.Event, settings: Settings, slots: EngineSlots, engine: ManagedEngine
) -> None:
    """When `stop` is set, take no new requests, but say so, and end when those that run are over.

    Those that are not over in time end with an error, not in the middle.
    """
    await stop.wait()
    end = time.monotonic() + settings.shutdown_grace_s
    if not await slots.stop(grace_s=settings.shutdown_grace_s):
        engine.interrupt()
    # For what the last answers have still to send.
    server.config.timeout_graceful_shutdown = max(_LAST_WORDS_S, math.ceil(end - time.monotonic()))
    server.should_exit = True
