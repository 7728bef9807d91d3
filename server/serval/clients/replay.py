"""Sending recorded requests to a server."""

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from serval.clients.recordings import Recording


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
    session: aiohttp.ClientSession, root_url: str, recording: Recording, *, model: str, key: str
) -> Reply:
    """Send the request as it was recorded, but for model and key, and read the answer to its end."""
    headers = dict(recording.headers) | {"content-type": "application/json"}
    if "authorization" in headers:
        headers["authorization"] = f"Bearer {key}"
    if "x-api-key" in headers:
        headers["x-api-key"] = key
    body = {**recording.body, "model": model}
    try:
        async with session.post(root_url + recording.path, json=body, headers=headers) as response:
            content_type = response.headers.get("content-type", "")
            return Reply(response.status, content_type, await response.read())
    except (aiohttp.ClientError, TimeoutError) as error:
        return Reply(0, "", f"{type(error).__name__}: {error}".encode())
