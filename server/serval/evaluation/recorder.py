"""An HTTP server on this machine between a harness and the evaluated server, which records.

It sets the sampling of every request, so that it is the same in all harnesses, and sends the key, which the
harness never gets: that has a key of the recorder, without which other programs of this machine, and pages in
a browser, cannot spend the real one. It waits out refusals for overload; a request that stays without an
answer ends the trial.
"""

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from aiohttp import web

from serval.evaluation.recording import Exchange, Recording

# Answers about the request itself, which would be the same again.
_LASTING: Final = frozenset({200, 400, 413, 422})
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S: Final = 30.0
_LARGEST_REQUEST: Final = 256 << 20
# Names of the longest answer, of which a server accepts one.
_LIMITS: Final = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Sampling:
    """Sampling of all requests of a trial; `max_tokens` None: answers end where the context does."""

    temperature: float
    top_p: float
    max_tokens: int | None
    seed: int

    def applied(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request with this sampling in place of the harness's."""
        kept = {name: value for name, value in request.items() if name not in _LIMITS}
        limit = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return kept | limit | {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}


@dataclass(frozen=True)
class _NoAnswer:
    """A request that got no answer; `passes`: it may get one `wait_s` later."""

    problem: str
    passes: bool
    wait_s: float = 0.0


class Recorder:
    """Answers a harness's requests from the recording or by the server at `root_url`.

    `patience_s` is how long a request is repeated while the server is overloaded or away. After that, or if
    the server refuses the key, `failure` is set, and the trial cannot be scored. Requests need `harness_key`.
    """

    def __init__(
        self, root_url: str, key: str | None, sampling: Sampling, recording: Recording, *, patience_s: float
    ) -> None:
        self._root_url = root_url
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._sampling = sampling
        self._recording = recording
        self._patience_s = patience_s
        self.harness_key = secrets.token_urlsafe(24)
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve on a free port of this machine; yields the base URL, which ends in `/v1`."""
        application = web.Application(client_max_size=_LARGEST_REQUEST)
        application.router.add_post("/v1/{rest:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            async with aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                connector=aiohttp.TCPConnector(limit=0),
            ) as self._session:
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                port = runner.addresses[0][1]
                yield f"http://127.0.0.1:{port}/v1"
        finally:
            await runner.cleanup()

    async def _answer(self, incoming: web.Request) -> web.Response:
        given = incoming.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(errors="replace"), f"Bearer {self.harness_key}".encode()):
            return web.json_response({"error": {"message": "This is not the harness's key."}}, status=401)
        request = self._sampling.applied(await incoming.json())
        exchange = self._recording.take(incoming.path, request)
        if exchange is None:
            exchange = await self._ask(incoming.path, request)
        if exchange is None:
            return web.json_response({"error": {"message": self.failure.result()}}, status=502)
        return web.json_response(exchange.answer, status=exchange.status)

    async def _ask(self, path: str, request: dict[str, Any]) -> Exchange | None:
        """Ask the server until it answers, and record the answer; None once the trial has failed."""
        give_up, pause_s = time.monotonic() + self._patience_s, 0.5
        while not self.failure.done():
            found = await self._attempt(path, request)
            if isinstance(found, Exchange):
                self._recording.add(found)
                return found
            pause_s = max(pause_s, found.wait_s)
            if not found.passes or time.monotonic() + pause_s > give_up:
                self._fail(f"{self._root_url}{path} did not answer: {found.problem}")
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(_LONGEST_WAIT_S, 2 * pause_s)
        return None

    async def _attempt(self, path: str, request: dict[str, Any]) -> "Exchange | _NoAnswer":
        began, started = time.time(), time.monotonic()
        try:
            async with self._session.post(f"{self._root_url}{path}", json=request) as response:
                status, body = response.status, await response.text()
                wait_s = _seconds(response.headers.get("retry-after"))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return _NoAnswer(f"{type(error).__name__}: {error}", passes=True)
        problem = f"status {status}: {body[:500]}"
        if status not in _LASTING:
            return _NoAnswer(problem, passes=status in _PASSING, wait_s=wait_s)
        try:
            answer = json.loads(body)
        except ValueError:
            return _NoAnswer(f"no JSON, {problem}", passes=False)
        seconds = round(time.monotonic() - started, 4)
        return Exchange(
            path=path, request=request, status=status, answer=answer, began=began, seconds=seconds
        )

    def _fail(self, problem: str) -> None:
        if not self.failure.done():
            self.failure.set_result(problem)


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after is not None and retry_after.isdigit() else 0.0
