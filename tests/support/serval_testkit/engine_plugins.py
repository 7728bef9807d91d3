"""Plugins of SGLang that tests write: their engines do something otherwise than the one that is shipped."""

import os
import textwrap
from pathlib import Path

_FORK = """
import multiprocessing


def register():
    multiprocessing.set_start_method("fork", force=True)
    # SGLang asks for "spawn" later on.
    multiprocessing.set_start_method = lambda method, force=False: None
"""


def write_plugin(folder: Path, name: str, source: str) -> None:
    """A distribution in `folder` whose module `name` has a function `register`, called in each process."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[sglang.srt.plugins]\n{name} = {name}:register\n")
    (folder / f"{name}.py").write_text(textwrap.dedent(source))


def with_plugins(folder: Path) -> dict[str, str]:
    """The variable with which an engine finds the plugins in `folder`."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def write_fork_plugin(folder: Path) -> None:
    """SGLang's processes are copies of the engine's main process, after its imports.

    Each of them otherwise imports the same again, for 20 s of a core; so an engine starts with a third of the
    work.
    For tests of what an engine computes. Tests of how it starts, fails and stops leave it out.
    """
    write_plugin(folder, "forked_processes", _FORK)
