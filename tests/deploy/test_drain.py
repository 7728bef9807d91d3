"""A gateway that is told to stop, as Compose and Kubernetes do it, while fifty clients read their answers."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack

import aiohttp

from serval_testkit.gateway import API_KEY, DEMO_CHECKPOINT
from serval_testkit.operator_tools import ROOT
from serval_testkit.processes import running
from serval_testkit.stand_in_engine import StandInEngine

STREAMS = 50
# Between an answer's two pieces: all streams are open by then, on a machine that is not overloaded.
PAUSE_S = 4.0


async def test_sigterm_loses_none_of_fifty_streams() -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
    for _ in range(STREAMS):
        engine.will_say("begin", " end", delay_s=PAUSE_S)
    async with engine.running(), AsyncExitStack() as stack:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("SERVAL_")}
        variables |= {"SERVAL_ENGINE_URL": engine.url, "SERVAL_API_KEY": API_KEY, "SERVAL_PORT": "0"}
        argv = [sys.executable, "-m", "serval", "gateway"]
        program = stack.enter_context(running(argv, cwd=ROOT, environment=variables))
        line = await asyncio.to_thread(program.wait_for_line, lambda text: "serving" in text, timeout_s=120)
        client = await stack.enter_async_context(
            aiohttp.ClientSession(
                headers={"authorization": f"Bearer {API_KEY}"}, connector=aiohttp.TCPConnector(limit=0)
            )
        )
        body = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        url = f"{line.split()[-1]}/v1/chat/completions"
        responses = await asyncio.gather(*(client.post(url, json=body) for _ in range(STREAMS)))
        begun = await asyncio.gather(*(until_text(response, b"begin") for response in responses))
        program.signal(signal.SIGTERM)
        rest = await asyncio.gather(*(response.read() for response in responses))
        assert await asyncio.to_thread(program.wait, timeout_s=120) == 0
    for first, last in zip(begun, rest, strict=True):
        assert b" end" in first + last
        assert (first + last).endswith(b"data: [DONE]\n\n")
    assert engine.aborted == []


async def until_text(response: aiohttp.ClientResponse, wanted: bytes) -> bytes:
    """What comes until `wanted` has come."""
    received = b""
    while wanted not in received:
        received += await asyncio.wait_for(response.content.readany(), 60)
    return received
