from collections.abc import AsyncIterator

import pytest_asyncio

from serval_testkit.gateway import RunningGateway, running_gateway


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    async with running_gateway() as running:
        yield running
