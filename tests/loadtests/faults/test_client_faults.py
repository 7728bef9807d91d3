"""Clients that vanish, stop reading, or only hold connections: nothing leaks, and others are served."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from serval_load.client import exchange
from serval_testkit.load_stack import LoadStack, load_stack
from serval_testkit.recovery import Recoveries

pytestmark = pytest.mark.asyncio(loop_scope="module")
IDLE = 10_000
# Descriptors for everything else in the test, the gateway and pytest.
_OWN_FILES = 500


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[LoadStack]:
    async with load_stack() as running:
        yield running


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_vanished_clients_leave_nothing_behind(
    stack: LoadStack, stream: bool, recovery: Recoveries
) -> None:
    await stack.ask()
    files = stack.gateway.open_files()
    request = stack.request(tokens=5000, stream=stream)
    # Some clients vanish before the answer begins, some in the middle of it.
    await asyncio.gather(
        *(exchange(stack.peer, request, vanish_after_s=0.01 * number) for number in range(60))
    )
    with recovery(f"60 clients of {'streams' if stream else 'whole answers'} vanished: every slot free"):
        await stack.all_free()
    counts = (await stack.engine_load())["counts"]
    assert counts.get("aborted", 0) + counts.get("gone", 0) > 0
    async with asyncio.timeout(60):
        # Until the engine's load is asked for again, the gateway may still hold it for overloaded.
        while not (answer := await stack.ask()).complete:
            assert "server_is_overloaded" in answer.error
            await asyncio.sleep(0.1)
    # Connections to the engine stay open for the next requests; those of the clients are closed.
    assert stack.gateway.open_files() <= files + 60


async def test_slow_readers_pause_the_engine_and_fill_no_memory() -> None:
    # Each answer is 5 MB and arrives at once.
    async with load_stack(engine_options=("--bare",)) as stack:
        await stack.ask()
        before = stack.gateway.memory_mb()
        slow = []
        for _ in range(20):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (stack.peer.host, stack.peer.port))
            await asyncio.get_running_loop().sock_sendall(connection, stack.request(tokens=20_000))
            slow.append(connection)
        for _ in range(20):
            assert (await stack.ask()).complete
        grown = stack.gateway.memory_mb() - before
        for connection in slow:
            connection.close()
        assert grown < 50, "100 MB were on their way"
        await stack.all_free()


async def test_idle_connections_cost_little_memory_and_delay_no_request() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(IDLE, limit[1] - _OWN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    idle = []
    try:
        async with load_stack(settings={"SERVAL_MAX_CONNECTIONS": str(count + 1000)}) as stack:
            await stack.ask()
            files, memory = stack.gateway.open_files(), stack.gateway.memory_mb()
            loop = asyncio.get_running_loop()
            for _ in range(count):
                connection = socket.socket()
                connection.setblocking(False)
                idle.append(connection)
                await loop.sock_connect(connection, (stack.peer.host, stack.peer.port))
            assert (await stack.ask()).complete
            assert stack.gateway.open_files() >= count
            each_kb = (stack.gateway.memory_mb() - memory) * 1024 / count
            print(f"{count} idle connections (bound by RLIMIT_NOFILE {limit[1]}): {each_kb:.1f} KB each")
            assert each_kb < 40
            while idle:
                idle.pop().close()
            async with asyncio.timeout(60):
                while stack.gateway.open_files() > files + 20:  # noqa: ASYNC110  # another process
                    await asyncio.sleep(0.1)
            await stack.all_free()
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
