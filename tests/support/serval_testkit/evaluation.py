"""Parts of evaluations: a manifest, and a server that answers as tests say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from serval.evaluation.manifest import Manifest

MANIFEST = Manifest(
    suite="sums",
    url="http://127.0.0.1:8000/v1",
    model="m",
    context_tokens=1000,
    server_version="Serval 1",
    checkpoint="sha256:1",
    temperature=0.0,
    top_p=1.0,
    max_tokens=None,
    seed=0,
    trials=1,
    tasks=("a",),
    limit=None,
    data=None,
    harness="lm-eval",
    harness_version="1",
    harness_lock="0",
    concurrency=2,
    serval_version="1",
    started="2026-11-30T00:00:00+00:00",
)


class AskedServer:
    """Answers each request with its number, from 1, or with the next status of `statuses`."""

    def __init__(self) -> None:
        self.root_url = ""
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.statuses: list[int] = []
        # Sent in place of each answer.
        self.body: str | None = None
        # Requests with a number above it wait for `go_on`.
        self.holds_above = 1_000_000
        self.holding = asyncio.Event()
        self.go_on = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["AskedServer"]:
        """Serve on a free port of the loopback interface."""
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.root_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            self.go_on.set()
            await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.Response:
        self.requests.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        number = len(self.requests)
        if number > self.holds_above:
            self.holding.set()
            await self.go_on.wait()
        if self.body is not None:
            return web.Response(text=self.body)
        status = self.statuses.pop(0) if self.statuses else 200
        choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": str(number)}}
        return web.json_response({"choices": [choice]}, status=status)
