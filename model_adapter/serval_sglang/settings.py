"""The environment of the adapter: the only module here that reads it. Everything else gets values passed."""

from __future__ import annotations

import os


def inherited_environment() -> dict[str, str]:
    """A copy of this process's environment, for the engine process to start from."""
    return dict(os.environ)


def available_cpus() -> list[int]:
    """Ids of the CPUs this process may run on."""
    return sorted(os.sched_getaffinity(0))
