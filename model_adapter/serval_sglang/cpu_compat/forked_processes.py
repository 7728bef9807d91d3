"""Starting SGLang's processes as forks of the engine's main process, which has imported everything.

SGLang spawns them: each would import torch, transformers and SGLang again, for more than ten seconds of a
core. A fork copies only one thread, so any lock held by another would stay locked in the copy forever.
Therefore nothing is forked unless the main process has one thread, counting those of libraries; otherwise
SGLang spawns, as it does on a GPU.
"""

import gc
import logging
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_LAUNCHERS = (
    "sglang.srt.entrypoints.engine.Engine._launch_scheduler_processes",
    "sglang.srt.entrypoints.engine.Engine._launch_detokenizer_subprocesses",
)


def fork_processes() -> None:
    """Have SGLang fork its processes if that is safe. Called in the main process, before it launches them."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    # Exempt imported objects from garbage collection, so that the copies keep sharing their memory.
    gc.freeze()
    os.register_at_fork(after_in_child=_start_afresh)
    for target in _LAUNCHERS:
        HookRegistry.register(target, _choose_start_method, HookType.BEFORE)
    HookRegistry.apply_hooks()


def _choose_start_method(*_: Any, **__: Any) -> None:
    """Replace the start method that SGLang has set."""
    threads = thread_count()
    if threads > 1:
        logger.warning("Slow start: the main process has %d threads, so its processes are spawned.", threads)
    multiprocessing.set_start_method("fork" if threads == 1 else "spawn", force=True)


def thread_count() -> int:
    """Number of threads of this process, including those unknown to Python."""
    return len(list(Path("/proc/self/task").iterdir()))


def _start_afresh() -> None:
    """Undo in a copy what SGLang has set up for its main process only."""
    multiprocessing.set_start_method("spawn", force=True)
    # The main process's handler would end the copy's whole process tree with an unrelated message.
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
