from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from serval_testkit.console import Visitor, running_console
from serval_testkit.gateway import RunningGateway


@pytest_asyncio.fixture
async def console(tmp_path: Path) -> AsyncIterator[tuple[RunningGateway, Visitor]]:
    """A gateway with a console, and a visitor who is not signed in."""
    async with running_console(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def visitor(console: tuple[RunningGateway, Visitor]) -> Visitor:
    """A visitor who is signed in by the admin key."""
    _, visitor = console
    await visitor.sign_in()
    return visitor
