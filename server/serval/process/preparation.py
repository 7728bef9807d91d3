"""Everything that a gateway does before its engine is ready, so that mistakes are reported in a second."""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from serval.app import Prepared
from serval.auth.factory import admin_authenticator, open_directory, open_tokens
from serval.chat import ChatRenderer, load_chat
from serval.engine.connect import check_engines
from serval.http.sockets import bind, reserve
from serval.limits.factory import open_gate
from serval.live_settings import LiveSettings
from serval.process.startup import initial_live_settings
from serval.setting_names import variable_of
from serval.settings import Settings
from serval.telemetry.tracing import open_tracing

if TYPE_CHECKING:
    from serval.auth.directory import KeyDirectory
    from serval.batches.service import Batches


def prepare(settings: Settings, live: LiveSettings) -> Prepared:
    """Open what a gateway needs besides its engine. Raises `SettingsError`."""
    directory = open_directory(settings)
    has_admin_api = settings.admin_port is not None
    return Prepared(
        live=live,
        directory=directory,
        tokens=open_tokens(settings),
        administrators=admin_authenticator(settings, directory) if has_admin_api else None,
        gate=open_gate(settings, None if directory is None else directory.store),
        tracing=open_tracing(settings),
        batches=_open_batches(settings, directory),
    )


def _open_batches(settings: Settings, directory: "KeyDirectory | None") -> "Batches | None":
    if settings.batch_folder is None:
        return None
    # SQLAlchemy is loaded only where there is a database.
    from serval.batches.service import open_batches

    return open_batches(settings.batch_folder, None if directory is None else directory.store.engine)


def load_chat_of(settings: Settings, folder: Path) -> ChatRenderer:
    """Load tokenizer and chat template. Raises `ModelFilesError`."""
    return load_chat(folder, segment_cache_bytes=settings.segment_cache_bytes)


@contextlib.contextmanager
def side_sockets(settings: Settings) -> Iterator[Mapping[str, socket.socket]]:
    """Sockets bound to the ports of admin API and metrics, by the name of the setting; close them on exit.

    Raises `SettingsError` if a port is taken.
    """
    with contextlib.ExitStack() as stack:
        sockets = {}
        for name, host in (("admin_port", settings.admin_host), ("metrics_port", settings.metrics_host)):
            port: int | None = getattr(settings, name)
            if port is not None:
                sockets[name] = stack.enter_context(contextlib.closing(bind(host, port, variable_of(name))))
        yield sockets


def check(settings: Settings) -> None:
    """Do all of this once and undo it. Raises the `ServalError` that a gateway would end with."""
    live = initial_live_settings(settings, progress=lambda _: None)
    with contextlib.closing(reserve(settings.host, settings.port, "--port")), side_sockets(settings):
        prepare(settings, live)
        check_engines(settings)
        if settings.model is not None:
            load_chat_of(settings, settings.model)
