"""Running the gateway: wait for the engine, load the tokenizer, serve until told to stop.

`serval gateway` calls `run_gateway`; a caller with an event loop of its own uses `serve_gateway`.
"""

import asyncio
import contextlib
import gc
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from serval.admin_server import serving_admin
from serval.api.context import ServedModel
from serval.app import Applications, create_apps
from serval.auth.keys import configured_keys
from serval.auth.opening import open_directory
from serval.chat import load_chat
from serval.engine.client import connect_engine
from serval.engine.protocol import Engine, EngineInfo
from serval.errors import EngineUnavailableError, ModelFilesError
from serval.http_server import HttpServer, raise_file_limit, server_config
from serval.listening import bind
from serval.settings import Settings

if TYPE_CHECKING:
    from serval.auth.directory import KeyDirectory

Progress = Callable[[str], None]

_POLL_S = 0.5
_PROGRESS_EVERY_S = 10.0


def print_progress(line: str) -> None:
    """The default progress: a line on standard error."""
    print(f"serval gateway: {line}", file=sys.stderr, flush=True)


def run_gateway(settings: Settings, *, progress: Progress = print_progress) -> None:
    """Serve until SIGINT or SIGTERM, then let running requests end.

    Raises a `ServalError` if it cannot start.
    """

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await serve_gateway(settings, stop=stop, progress=progress)

    raise_file_limit()
    uvloop.run(main())


async def serve_gateway(
    settings: Settings, *, stop: asyncio.Event, progress: Progress = print_progress
) -> None:
    """Serve until `stop` is set. Raises a `ServalError` if it cannot start."""
    # Mistakes in the settings show now, not after the engine has taken minutes to load.
    keys_required = configured_keys(settings).required
    directory = open_directory(settings)
    if not keys_required and directory is None:
        progress("no API key is set (SERVAL_API_KEY): everyone who can connect may use the model")
    with contextlib.closing(bind(settings.host, settings.port, "--port")) as listener:
        async with connect_engine(settings) as engine:
            info = await wait_for_engine(engine, settings, stop=stop, progress=progress)
            if info is None:
                return
            apps = build_apps(settings, engine=engine, info=info, directory=directory)
            host, port = listener.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            server = HttpServer(
                server_config(apps.api, settings, refused=apps.metrics.request_refused),
                on_listening=lambda: progress(f"serving {apps.model.name} on {address}"),
            )
            stopper = asyncio.create_task(_stop_server(server, stop))
            # What start-up made lives as long as the process; the collector need not walk over it.
            gc.collect()
            gc.freeze()
            try:
                async with serving_admin(apps, settings, progress=progress):
                    await server.serve(sockets=[listener])
            finally:
                stopper.cancel()


def build_apps(
    settings: Settings, *, engine: Engine, info: EngineInfo, directory: "KeyDirectory | None"
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
    return create_apps(settings, engine=engine, chat=chat, model=model, directory=directory)


async def wait_for_engine(
    engine: Engine, settings: Settings, *, stop: asyncio.Event, progress: Progress
) -> EngineInfo | None:
    """What the engine serves, once it is ready; None if `stop` was set first.

    Raises `EngineUnavailableError` after `settings.engine_timeout_s`.
    """
    started = time.monotonic()
    next_progress_s = 0.0
    while not stop.is_set():
        if await engine.is_ready():
            return await engine.info()
        waited_s = time.monotonic() - started
        if waited_s >= settings.engine_timeout_s:
            raise EngineUnavailableError(
                f"the engine at {settings.engine_url} was not ready within {settings.engine_timeout_s:g} s;"
                " check that"
                " it runs and that --engine-url is right, or allow more time with --engine-timeout"
            )
        if waited_s >= next_progress_s:
            progress(f"waiting for the engine at {settings.engine_url} ({waited_s:.0f} s)")
            next_progress_s = waited_s + _PROGRESS_EVERY_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _POLL_S)
    return None


async def _stop_server(server: HttpServer, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True
