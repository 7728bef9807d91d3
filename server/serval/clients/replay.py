"""Sending recorded requests to a server."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from serval.clients.recordings import Api, Recording

# Fields that limit an answer, the one to use last.
_LIMITS: Final[Mapping[Api, tuple[str, ...]]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}


@dataclass(frozen=True)
class Reply:
    """A server's whole answer. Status 0: none came, and `body` says why."""

    status: int
    content_type: str
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The decoded body; None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


async def replay(
    session: aiohttp.ClientSession,
    root_url: str,
    recording: Recording,
    *,
    model: str,
    key: str,
    max_tokens: int | None = None,
) -> Reply:
    """Send the request as it was recorded, but for model and key, and read the answer to its end.

    `max_tokens`, if given, takes the place of the recorded limit.
    """
    headers = dict(recording.headers) | {"content-type": "application/json"}
    if "authorization" in headers:
        headers["authorization"] = f"Bearer {key}"
    if "x-api-key" in headers:
        headers["x-api-key"] = key
    body = {**recording.body, "model": model}
    if max_tokens is not None and recording.api in _LIMITS:
        *others, name = _LIMITS[recording.api]
        body = {field: value for field, value in body.items() if field not in others} | {name: max_tokens}
    try:
        async with session.post(root_url + recording.path, json=body, headers=headers) as response:
            content_type = response.headers.get("content-type", "")
            return Reply(response.status, content_type, await response.read())
    except (aiohttp.ClientError, TimeoutError) as error:
        return Reply(0, "", f"{type(error).__name__}: {error}".encode())
