"""Reload of the key file, the settings file and the prices when they change.

A file that cannot be used is reported in the log and changes nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from serval.errors import SettingsError
from serval.live_settings import LiveSettings, read_live_settings
from serval.settings import REREAD, Settings
from serval.settings_file import read_settings_file

logger = logging.getLogger(__name__)

POLL_S: Final = 1.0
# Inode, size and modification time; None for a missing file.
Stamp = tuple[int, int, int] | None


async def settings_changes(
    settings: Settings, live: LiveSettings, *, requested: asyncio.Event, poll_s: float = POLL_S
) -> AsyncIterator[LiveSettings]:
    """Yield the new live settings whenever they differ from `live`.

    A changed file is read once it has stayed the same for one poll, so that none is read while it is being
    written. Setting `requested` reads the files immediately and clears the event.
    """
    files = [
        file
        for file in (settings.settings_file, settings.api_key_file, settings.prices_file)
        if file is not None
    ]
    values: Mapping[str, Any] | None = None
    read: list[Stamp] = []
    seen: list[Stamp] = []
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(requested.wait(), poll_s)
        now = await asyncio.to_thread(lambda: [stamp(file) for file in files])
        settled, seen = now == seen, now
        if not requested.is_set() and (now == read or not settled):
            continue
        on_request, read = requested.is_set(), now
        requested.clear()
        try:
            fresh = await asyncio.to_thread(read_live_settings, settings, before=live)
            previous_values, values = values, _file_values(settings)
        except SettingsError as error:
            logger.error(
                "settings cannot be taken over; the old ones stay in force",
                extra={"fields": {"reason": str(error)}},
            )
            continue
        need_restart = [] if previous_values is None else _changed_names(values, previous_values)
        if on_request or fresh != live or need_restart:
            _log(fresh, live, need_restart=need_restart)
        if fresh != live:
            live = fresh
            yield live


def _log(fresh: LiveSettings, live: LiveSettings, *, need_restart: list[str]) -> None:
    fields: dict[str, Any] = {
        "keys": len([key for key in fresh.keys if key]),
        "new_keys": len(set(fresh.keys) - set(live.keys) - {""}),
        "withdrawn_keys": len(set(live.keys) - set(fresh.keys) - {""}),
        "reserved_completion_tokens": fresh.reserved_completion_tokens,
        "model_aliases": " ".join(fresh.model_aliases),
        "priced_models": " ".join(model for model, _ in fresh.prices),
        **{name: getattr(fresh.limits, name) for name in fresh.limits.__struct_fields__},
    }
    if need_restart:
        # Only the names: a value may be a secret.
        fields["need_a_restart"] = need_restart
    logger.info("settings read again", extra={"fields": fields})


def _changed_names(values: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Names of changed settings that are read at start-up only."""
    names = values.keys() | before.keys()
    return sorted(name for name in names - set(REREAD) if values.get(name) != before.get(name))


def _file_values(settings: Settings) -> Mapping[str, Any]:
    return {} if settings.settings_file is None else read_settings_file(settings.settings_file)


def stamp(file: Path) -> Stamp:
    """The stamp of the file as it is now."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
