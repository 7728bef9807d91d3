"""SGLang plugins written by tests, whose engines behave differently from the shipped one in some respect."""

import os
import textwrap
from pathlib import Path

_SPAWN = """
from serval_sglang.cpu_compat import forked_processes


def register():
    forked_processes.thread_count = lambda: 2
"""

_COUNT = """
import os


def register():
    with open(os.environ["SERVAL_TEST_REGISTERED"], "a") as file:
        file.write(f"{os.getpid()}\\n")
"""


def write_plugin(folder: Path, name: str, source: str) -> None:
    """Write a distribution to `folder`; its module `name` has a `register`, called in each process."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[sglang.srt.plugins]\n{name} = {name}:register\n")
    (folder / f"{name}.py").write_text(textwrap.dedent(source))


def with_plugins(folder: Path) -> dict[str, str]:
    """Return the variable with which an engine finds the plugins in `folder`."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def write_spawn_plugin(folder: Path) -> None:
    """Write a plugin that reports a second thread, so that a CPU engine spawns its processes."""
    write_plugin(folder, "spawned_processes", _SPAWN)


def write_counting_plugin(folder: Path) -> dict[str, str]:
    """Write a plugin that records the pid of each process that loads plugins: all that are not forked copies.

    Returns the variables for the engine; SERVAL_TEST_REGISTERED is the file with the pids.
    """
    write_plugin(folder, "counted_processes", _COUNT)
    return {**with_plugins(folder), "SERVAL_TEST_REGISTERED": str(folder / "registered")}
