"""Order, time limits and event loop of the run: tests on a real engine come last and have more time."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

from serval_testkit.lanes import ENGINE_FOLDERS, PROGRAM_FOLDERS, SERVER_FOLDERS

# A slow machine is no failure. In CI the examples are the same each time, so that a red run is the fault of
# the change and not of the dice; everywhere else the search goes on with new ones.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Threads that share the small matrices of a test mostly wait for each other: with two, an engine takes twice
# the CPU time. Engines that the tests start inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts this in the background ignores Ctrl-C, and so would every program that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A session's engine starts within the first test that needs it, on a machine that may be busy.
_ENGINE_TEST_TIMEOUT_S = 900
_TESTS = Path(__file__).parent


def _turn(item: pytest.Item) -> int:
    """First what starts no engine, then who wants no other engine beside it: a session's stays to the end."""
    marker = item.get_closest_marker("engine")
    return 0 if marker is None else 1 if marker.kwargs.get("alone") else 2


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    for item in items:
        folder = f"{_TESTS.name}/{item.path.relative_to(_TESTS).parts[0]}"
        if folder in PROGRAM_FOLDERS:
            item.add_marker(pytest.mark.programs)
        if folder in SERVER_FOLDERS:
            item.add_marker(pytest.mark.server)
        if not item.get_closest_marker("engine"):
            continue
        if folder not in (*ENGINE_FOLDERS, *PROGRAM_FOLDERS):
            raise pytest.UsageError(f"{item.nodeid}: tests on the engine belong in {ENGINE_FOLDERS}.")
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_ENGINE_TEST_TIMEOUT_S))


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Async tests run on the event loop the gateway runs on: its transports differ from asyncio's own."""
    return {"uvloop": uvloop.new_event_loop}
