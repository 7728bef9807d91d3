"""Facts about the evaluated server that belong to a score."""

import asyncio
from typing import Final, TypeVar

import aiohttp
import msgspec

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)


class ServerFacts(msgspec.Struct, frozen=True):
    """Version of the server, and the checkpoint that it names; empty where it does not tell."""

    version: str = ""
    checkpoint: str = ""


class _Info(msgspec.Struct):
    title: str = ""
    version: str = ""


class _Document(msgspec.Struct):
    info: _Info


class _Model(msgspec.Struct):
    id: str
    checkpoint: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


_Answer = TypeVar("_Answer", bound=msgspec.Struct)


def server_facts(base_url: str, key: str | None, model: str) -> ServerFacts:
    """Ask a server whose `base_url` ends in `/v1`. An answer that cannot be read counts as none."""
    return asyncio.run(_ask(base_url, key, model))


async def _ask(base_url: str, key: str | None, model: str) -> ServerFacts:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT) as session:
        document = await _get(session, f"{base_url.removesuffix('/v1')}/openapi.json", _Document)
        models = await _get(session, f"{base_url}/models", _Models)
    version = "" if document is None else f"{document.info.title} {document.info.version}".strip()
    found = [each.checkpoint or "" for each in (models.data if models else []) if each.id == model]
    return ServerFacts(version, found[0] if found else "")


async def _get(session: aiohttp.ClientSession, url: str, form: type[_Answer]) -> _Answer | None:
    try:
        async with session.get(url) as response:
            return msgspec.json.decode(await response.read(), type=form) if response.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError):
        return None
