"""`serval gateway` as a separate process in front of an engine."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from serval_testkit.gateway import API_KEY
from serval_testkit.processes import Program, descendants, running

_CHAT: Final = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}]}
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class GatewayProgram:
    """A gateway process that is serving."""

    url: str
    program: Program
    http: aiohttp.ClientSession

    @property
    def workers(self) -> set[int]:
        """Pids of the processes that the gateway has started."""
        return descendants(self.program.process.pid)

    async def chat_status(self, headers: Mapping[str, str] | None = None, **fields: Any) -> int:
        """Return the status of a chat's answer once it is complete; 0 if the connection broke."""
        try:
            url = f"{self.url}/v1/chat/completions"
            async with self.http.post(url, json=_CHAT | fields, headers=headers) as response:
                await response.read()
                return response.status
        except aiohttp.ClientError:
            return 0

    async def wait_for_line(self, text: str) -> str:
        """Wait for the first line of output that contains `text`, and return it."""
        return await asyncio.to_thread(self.program.wait_for_line, lambda line: text in line, timeout_s=180)

    async def end(self) -> int:
        """Wait for the end of the program, and return its exit code."""
        return await asyncio.to_thread(self.program.wait, timeout_s=120)


@asynccontextmanager
async def gateway_program(engine_url: str, *options: str, **variables: str) -> AsyncIterator[GatewayProgram]:
    """Start a gateway on a free port and wait until it serves; `http` has its key and no connection limit."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVAL_")}
    environment |= {"SERVAL_ENGINE_URL": engine_url, "SERVAL_API_KEY": API_KEY, "SERVAL_PORT": "0"}
    argv = [sys.executable, "-m", "serval", "gateway", *options]
    with running(argv, cwd=ROOT, environment=environment | variables) as program:
        # Each request uses its own connection: the kernel distributes connections, not requests.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        headers = {"authorization": f"Bearer {API_KEY}"}
        async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
            found = await asyncio.to_thread(
                program.wait_for_line, lambda line: "gateway: serving" in line, timeout_s=180
            )
            yield GatewayProgram(found.split()[-1], program, http)


async def wait_until(wanted: Callable[[], bool]) -> None:
    """Wait until `wanted` returns True; fail after two minutes."""
    for _ in range(2400):
        if wanted():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("did not come to pass in two minutes")
