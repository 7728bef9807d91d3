"""Checks of what a gateway needs: keys, databases, the engine and the model folder."""

import asyncio
from pathlib import Path

from serval.auth.factory import open_directory, open_tokens
from serval.auth.keys import configured_keys
from serval.chat import load_chat
from serval.doctor.finding import Finding, State
from serval.engine.connect import connect
from serval.engine.fleet import Fleet
from serval.engine.place import State as EngineState
from serval.engine.protocol import EngineInfo
from serval.errors import ServalError, SettingsError
from serval.http.sockets import bind
from serval.limits.factory import require_redis
from serval.settings import Settings, unknown_variables


def variables() -> Finding:
    """Check that something reads each variable `SERVAL_*`."""
    unknown = unknown_variables().values()
    return Finding("variables", "warning" if unknown else "ok", "; ".join(unknown) or "all are known")


def port(settings: Settings, *, in_use: State) -> Finding:
    """Check that a gateway could listen; `in_use` is the state if something already does."""
    try:
        bind(settings.host, settings.port, "SERVAL_PORT").close()
    except SettingsError as error:
        return Finding("port", in_use, str(error))
    return Finding("port", "ok", f"a gateway can listen on {settings.host}:{settings.port}")


def keys(settings: Settings) -> Finding:
    """Check that clients need a key."""
    try:
        required = bool(configured_keys(settings))
    except SettingsError as error:
        return Finding("keys", "failed", str(error))
    if required or settings.key_database is not None or settings.oidc_issuer is not None:
        return Finding("keys", "ok", "a key is asked for")
    return Finding("keys", "warning", "no key is set: `serval gateway` makes one at each start")


def key_database(settings: Settings) -> Finding:
    """Check that the key database can be read. A database that does not exist is not created."""
    name = settings.key_database
    if name is None:
        return Finding("key database", "ok", "none is set")
    if "://" not in name and Path(name).parent.is_dir() and not Path(name).exists():
        return Finding("key database", "warning", f"{name} does not exist yet; the first use makes it")
    try:
        open_directory(settings)
    except ServalError as error:
        return Finding("key database", "failed", str(error))
    return Finding("key database", "ok", "can be read")


def limits(settings: Settings) -> Finding:
    """Check that Redis can be written to, if limits are kept there."""
    if settings.limits_url is None:
        return Finding("limits", "ok", "counted by the gateway itself")
    try:
        require_redis()
        from serval.limits.redis_limiter import probe_url

        problem = asyncio.run(
            probe_url(settings.limits_url.get_secret_value(), timeout_s=settings.limits_timeout_s)
        )
    except SettingsError as error:
        return Finding("limits", "failed", str(error))
    if problem is not None:
        return Finding("limits", "failed", f"Redis (SERVAL_LIMITS_URL) cannot keep them: {problem}")
    return Finding("limits", "ok", "Redis can be written to")


def identity_provider(settings: Settings) -> Finding:
    """Check the settings of the identity provider, without contacting it."""
    try:
        tokens = open_tokens(settings)
    except ServalError as error:
        return Finding("identity provider", "failed", str(error))
    return Finding("identity provider", "ok", "none is set" if tokens is None else "set up")


def engine(settings: Settings) -> tuple[Finding, EngineInfo | None]:
    """Check that the engine answers and is ready; report what it serves. Of several, one must be ready."""
    states: dict[str, EngineState] = {}

    async def ask() -> EngineInfo | None:
        async with connect(settings) as client:
            ready = await client.is_ready()
            if isinstance(client, Fleet):
                states.update(client.states())
            return await client.info() if ready else None

    try:
        info = asyncio.run(ask())
    except ServalError as error:
        return Finding("engine", "failed", str(error)), None
    named = ", ".join(f"{name} {state}" for name, state in states.items())
    if info is None and states:
        return Finding("engine", "failed", f"none of the engines is ready: {named}"), None
    if info is None:
        says = f"{settings.engine_url} does not answer or is not ready; start it, or see --engine-url"
        return Finding("engine", "failed", says), None
    says = f"{info.model_path}, context of {info.context_length} tokens"
    if states:
        all_ready = set(states.values()) == {"ready"}
        return Finding("engine", "ok" if all_ready else "warning", f"{says}; {named}"), info
    return Finding("engine", "ok", says), info


def model_folder(settings: Settings, info: EngineInfo | None) -> Finding:
    """Check that tokenizer and chat template can be used."""
    folder = settings.model or (None if info is None else Path(info.model_path))
    if folder is None:
        return Finding("model folder", "warning", "not set; it is the engine's, which was not asked")
    try:
        load_chat(folder)
    except ServalError as error:
        return Finding("model folder", "failed", str(error))
    return Finding("model folder", "ok", str(folder))
