"""What `serval doctor` looks at: each check says in one line whether a part is as the gateway needs it."""

import asyncio
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serval.auth.factory import open_directory, open_tokens
from serval.auth.keys import configured_keys
from serval.chat import load_chat
from serval.engine.client import connect_engine
from serval.engine.protocol import EngineInfo
from serval.errors import ServalError, SettingsError
from serval.limits.factory import require_redis
from serval.settings import Settings

# `warning`: it works, but perhaps not as it was meant to.
State = Literal["ok", "warning", "failed"]

_DISTRIBUTION = "serval-llm"
_PLUGIN_GROUP = "sglang.srt.plugins"
_PYTHON = ((3, 11), (3, 12))


@dataclass(frozen=True)
class Finding:
    """The result of one check. `says` is for people."""

    check: str
    state: State
    says: str


def findings(settings: Settings, *, with_engine: bool) -> Iterator[Finding]:
    """All checks, one after the other. `with_engine`: the engine should be running."""
    yield python()
    yield sglang()
    yield plugin()
    yield gpu()
    yield keys(settings)
    yield key_database(settings)
    yield limits(settings)
    yield identity_provider(settings)
    info: EngineInfo | None = None
    if with_engine:
        finding, info = engine(settings)
        yield finding
    yield model_folder(settings, info)


def python() -> Finding:
    """Whether this Python is one the packages are made for."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] in _PYTHON:
        return Finding("python", "ok", version)
    return Finding("python", "failed", f"{version}; install Python 3.11 or 3.12")


def sglang() -> Finding:
    """Whether the SGLang that is installed, if any, is the one the adapter is made for."""
    pinned = _pinned_sglang()
    try:
        installed = importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return Finding("sglang", "warning", "not installed: this machine can run a gateway but no engine")
    if installed == pinned:
        return Finding("sglang", "ok", installed)
    return Finding("sglang", "failed", f"{installed} is installed, {pinned} is needed")


def _pinned_sglang() -> str:
    for requirement in importlib.metadata.requires(_DISTRIBUTION) or []:
        name, _, rest = requirement.partition("==")
        if name == "sglang":
            return rest.partition(";")[0].strip()
    raise LookupError(f"{_DISTRIBUTION} does not say which SGLang it needs")


def plugin() -> Finding:
    """Whether SGLang will find the model adapter."""
    names = {entry.name for entry in importlib.metadata.entry_points(group=_PLUGIN_GROUP)}
    if "serval" in names:
        return Finding("plugin", "ok", "SGLang finds the model adapter")
    return Finding("plugin", "failed", f"no entry point 'serval' in {_PLUGIN_GROUP}; install {_DISTRIBUTION}")


def gpu() -> Finding:
    """What GPUs the driver knows."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("gpu", "warning", "no NVIDIA driver: engines run on the CPU, for tests and the demo")
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("gpu", "failed", f"nvidia-smi does not work: {error}")
    gpus = [line.strip() for line in listed.splitlines() if line.strip()]
    if not gpus:
        return Finding("gpu", "warning", "the driver knows no GPU")
    return Finding("gpu", "ok", "; ".join(gpus))


def keys(settings: Settings) -> Finding:
    """Whether somebody must have a key."""
    try:
        required = bool(configured_keys(settings))
    except SettingsError as error:
        return Finding("keys", "failed", str(error))
    if required or settings.key_database is not None or settings.oidc_issuer is not None:
        return Finding("keys", "ok", "a key is asked for")
    return Finding("keys", "warning", "no key is set: `serval gateway` makes one at each start")


def key_database(settings: Settings) -> Finding:
    """Whether the key database can be read. One that does not exist is not made."""
    name = settings.key_database
    if name is None:
        return Finding("key database", "ok", "none is set")
    if "://" not in name and not Path(name).exists():
        return Finding("key database", "warning", f"{name} does not exist yet; the first use makes it")
    try:
        open_directory(settings)
    except ServalError as error:
        return Finding("key database", "failed", str(error))
    return Finding("key database", "ok", "can be read")


def limits(settings: Settings) -> Finding:
    """Whether Redis, if limits are kept there, can be written to."""
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
    """Whether tokens of an identity provider can be checked, as far as that can be said without asking it."""
    try:
        tokens = open_tokens(settings)
    except ServalError as error:
        return Finding("identity provider", "failed", str(error))
    return Finding("identity provider", "ok", "none is set" if tokens is None else "set up")


def engine(settings: Settings) -> tuple[Finding, EngineInfo | None]:
    """Whether the engine answers and is ready, and what it serves."""

    async def ask() -> EngineInfo | None:
        async with connect_engine(settings) as client:
            return await client.info() if await client.is_ready() else None

    try:
        info = asyncio.run(ask())
    except ServalError as error:
        return Finding("engine", "failed", str(error)), None
    if info is None:
        says = f"{settings.engine_url} does not answer or is not ready; start it, or see --engine-url"
        return Finding("engine", "failed", says), None
    says = f"{info.model_path}, context of {info.context_length} tokens"
    return Finding("engine", "ok", says), info


def model_folder(settings: Settings, info: EngineInfo | None) -> Finding:
    """Whether tokenizer and chat template can be used."""
    folder = settings.model or (None if info is None else Path(info.model_path))
    if folder is None:
        return Finding("model folder", "warning", "not set; it is the engine's, which was not asked")
    try:
        load_chat(folder)
    except ServalError as error:
        return Finding("model folder", "failed", str(error))
    return Finding("model folder", "ok", str(folder))
