"""Name and context window of a server's model, from `GET /v1/models`."""

import asyncio
from typing import Final

import aiohttp
import msgspec

from serval.agents.setup import KEY_VARIABLE, Target
from serval.errors import ServalError

# Agents ask for at most this many tokens; with a short context, for a quarter of it.
_MOST_OUTPUT: Final = 32_000
_TIMEOUT_S: Final = 10


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class DiscoveryError(ServalError):
    """A server could not be asked for its model; the message says what to give in its place."""


def find_target(
    base_url: str,
    key: str | None,
    *,
    model: str | None = None,
    context_window: int | None = None,
    output_limit: int | None = None,
) -> Target:
    """Return the server at `base_url`, asked for whatever is None. Raises `DiscoveryError`.

    `output_limit` is by default a quarter of the context, and at most 32,000 tokens.
    """
    url = base_url.rstrip("/")
    if model is None or context_window is None:
        found = _found(asyncio.run(_models(url, key)), model, url)
        model = found.id
        context_window = context_window or found.max_model_len
    if context_window is None:
        raise DiscoveryError(f"{url} does not say how long its context is: give it with --context-window")
    return Target(url, model, context_window, output_limit or min(_MOST_OUTPUT, context_window // 4))


def _found(models: list[_Model], name: str | None, url: str) -> _Model:
    """Return the model called `name`, or the first."""
    if not models:
        raise DiscoveryError(f"{url} offers no model to this key")
    if name is None:
        return models[0]
    found = next((model for model in models if model.id == name), None)
    if found is None:
        offered = ", ".join(model.id for model in models)
        raise DiscoveryError(f"{url} has no model {name!r}; it has {offered}")
    return found


async def _models(url: str, key: str | None) -> list[_Model]:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
            session.get(f"{url}/models") as response,
        ):
            status, body = response.status, await response.read()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise DiscoveryError(
            f"no server at {url}: start one with `serval serve`, name it with --url, "
            "or give --model and --context-window"
        ) from error
    if status == 401:
        problem = "asks for a key, and none is in" if key is None else "does not accept the key in"
        raise DiscoveryError(f"{url} {problem} {KEY_VARIABLE}")
    if status == 404:
        raise DiscoveryError(f"{url}/models is unknown to the server: does the base URL end in /v1?")
    try:
        return msgspec.json.decode(body, type=_Models).data
    except msgspec.DecodeError as error:
        raise DiscoveryError(f"{url}/models answered {status}, and no list of models") from error
