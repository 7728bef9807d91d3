"""What a gateway does before it can serve, in one process or in the parent of several."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable

from serval.auth.keys import configured_keys
from serval.auth.opening import open_tokens
from serval.engine.protocol import EngineInfo, ManagedEngine
from serval.errors import EngineUnavailableError
from serval.settings import Settings

Progress = Callable[[str], None]

_POLL_S = 0.5
_PROGRESS_EVERY_S = 10.0


def print_progress(line: str) -> None:
    """The default progress: a line on standard error."""
    # A full disk under the log must not keep the gateway from starting.
    with contextlib.suppress(OSError):
        print(f"serval gateway: {line}", file=sys.stderr, flush=True)


def stopped_by_signal() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


def check_keys(settings: Settings, *, progress: Progress) -> None:
    """Raise `SettingsError` for mistakes in the settings of keys, before the engine takes minutes to load."""
    tokens = open_tokens(settings)
    if not configured_keys(settings).required and settings.key_database is None and tokens is None:
        progress("no API key is set (SERVAL_API_KEY): everyone who can connect may use the model")


async def wait_for_engine(
    engine: ManagedEngine, settings: Settings, *, stop: asyncio.Event, progress: Progress
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
