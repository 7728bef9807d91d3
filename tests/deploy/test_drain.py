"""Stop of a gateway by SIGTERM, as from Compose and Kubernetes, while fifty clients read their answers."""

import asyncio
import signal

import aiohttp
import pytest

from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import gateway_program
from serval_testkit.processes import is_running
from serval_testkit.stand_in_engine import StandInEngine

STREAMS = 50
# Pause between the two pieces of an answer, in which all streams open unless the machine is overloaded.
PAUSE_S = 4.0


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_loses_none_of_fifty_streams(workers: int) -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
    for _ in range(STREAMS):
        engine.will_say("begin", " end", delay_s=PAUSE_S)
    async with engine.running(), gateway_program(engine.url, "--workers", str(workers)) as gateway:
        body = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        url = f"{gateway.url}/v1/chat/completions"
        responses = await asyncio.gather(*(gateway.http.post(url, json=body) for _ in range(STREAMS)))
        begun = await asyncio.gather(*(until_text(response, b"begin") for response in responses))
        processes = gateway.workers
        gateway.program.signal(signal.SIGTERM)
        rest = await asyncio.gather(*(response.read() for response in responses))
        assert await gateway.end() == 0
        assert not any(is_running(pid) for pid in processes)
    for first, last in zip(begun, rest, strict=True):
        assert b" end" in first + last
        assert (first + last).endswith(b"data: [DONE]\n\n")
    assert engine.aborted == []


async def until_text(response: aiohttp.ClientResponse, wanted: bytes) -> bytes:
    """Read until `wanted` has arrived."""
    received = b""
    while wanted not in received:
        received += await asyncio.wait_for(response.content.readany(), 60)
    return received
