"""Start-up of a gateway before it serves, in a single process or in the parent of workers."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable

from serval.auth.factory import open_tokens
from serval.engine.fleet import Fleet
from serval.engine.protocol import EngineInfo, ManagedEngine
from serval.errors import EngineUnavailableError
from serval.live_settings import LiveSettings, read_live_settings
from serval.settings import Settings

Progress = Callable[[str], None]

_POLL_S = 0.25
_PROGRESS_EVERY_S = 10.0


def print_progress(line: str) -> None:
    """Print a line of progress on standard error."""
    # A full disk under the log must not keep the gateway from starting.
    with contextlib.suppress(OSError):
        print(f"serval gateway: {line}", file=sys.stderr, flush=True)


def initial_live_settings(settings: Settings, *, progress: Progress) -> LiveSettings:
    """The keys and limits to start with.

    Raises `SettingsError` for mistakes in the settings of keys, before the engine takes minutes to load.
    """
    tokens = open_tokens(settings)
    live = read_live_settings(settings)
    if not live.keys and settings.key_database is None and tokens is None:
        progress("no API key is set (SERVAL_API_KEY): everyone who can connect may use the model")
    return live


async def wait_for_engine(
    engine: ManagedEngine, settings: Settings, *, stop: asyncio.Event, progress: Progress
) -> EngineInfo | None:
    """Wait until the engine is ready and return its description; None if `stop` was set first.

    With several engines one is enough. Raises `EngineUnavailableError` after `settings.engine_timeout_s`.
    """
    started = time.monotonic()
    next_progress_s = 0.0
    while not stop.is_set():
        if await engine.is_ready():
            if isinstance(engine, Fleet):
                progress(f"engines: {_states(engine)}")
            return await engine.info()
        waited_s = time.monotonic() - started
        if waited_s >= settings.engine_timeout_s:
            raise EngineUnavailableError(
                f"{_awaited(engine, settings)} was not ready within {settings.engine_timeout_s:g} s;"
                " check that it runs and that --engine-url is right, or allow more time with --engine-timeout"
            )
        if waited_s >= next_progress_s:
            progress(f"waiting for {_awaited(engine, settings)} ({waited_s:.0f} s)")
            next_progress_s = waited_s + _PROGRESS_EVERY_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _POLL_S)
    return None


def _awaited(engine: ManagedEngine, settings: Settings) -> str:
    if isinstance(engine, Fleet):
        return f"any of the engines ({_states(engine) or 'none is named'})"
    return f"the engine at {settings.engine_url}"


def _states(fleet: Fleet) -> str:
    return ", ".join(f"{name} {state}" for name, state in fleet.states().items())
