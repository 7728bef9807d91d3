"""Connecting to the engine of the settings, or to several."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from serval.engine.client import connect_engine
from serval.engine.discovery import Discovery, is_single
from serval.engine.fleet import Fleet
from serval.engine.protocol import ManagedEngine
from serval.settings import Settings


def check_engines(settings: Settings) -> None:
    """Check how the engines are named, and the file that names them. Raises `SettingsError`."""
    Discovery(settings.engine_url, settings.engines_file)


@asynccontextmanager
async def connect(settings: Settings, tokens: Sequence[int] | None = None) -> AsyncIterator[ManagedEngine]:
    """Connect to one engine, or look for several, in a running event loop.

    `tokens` are those of `model_check.PROBE` by the gateway's own tokenizer, with which engines of a fleet
    have to agree. Raises `SettingsError`.
    """
    if settings.engines_file is None and is_single(settings.engine_url):
        async with connect_engine(settings) as engine:
            yield engine
    else:
        async with connect_fleet(settings, tokens) as fleet:
            yield fleet


@asynccontextmanager
async def connect_fleet(settings: Settings, tokens: Sequence[int] | None = None) -> AsyncIterator[Fleet]:
    """Look for the engines of the settings until left. Raises `SettingsError` if these cannot be used.

    `tokens` are those of `model_check.PROBE` by the gateway's own tokenizer.
    """
    fleet = Fleet(settings, Discovery(settings.engine_url, settings.engines_file), tokens)
    watching = asyncio.create_task(fleet.watch())
    try:
        yield fleet
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
