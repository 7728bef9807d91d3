"""Fixtures for all tests of the model adapter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from serval_testkit.engine_plugins import with_plugins, write_spawn_plugin


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, and on a busy machine waiting for one another costs minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def spawned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of an engine whose processes are spawned, not forked."""
    plugins = tmp_path_factory.mktemp("plugins")
    write_spawn_plugin(plugins)
    return with_plugins(plugins)
