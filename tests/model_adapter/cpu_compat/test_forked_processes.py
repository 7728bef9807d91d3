"""SGLang's processes are forked only from a main process with one thread; their copies start afresh."""

import subprocess
import sys
from pathlib import Path

import pytest

# Launches a process as SGLang does: it asks for "spawn" at first.
_PROGRAM = """
import multiprocessing, os, signal, sys, threading, types

hooks = {}
registry = types.ModuleType("sglang.srt.plugins.hook_registry")

class HookType:
    BEFORE = "before"

class HookRegistry:
    register = staticmethod(lambda target, hook, kind: hooks.setdefault((target, kind), hook))
    apply_hooks = staticmethod(lambda: None)

registry.HookType, registry.HookRegistry = HookType, HookRegistry
sys.modules["sglang.srt.plugins.hook_registry"] = registry

from serval_sglang.cpu_compat.forked_processes import fork_processes

def report(parent):
    started = "forked" if imported_by == parent else "spawned"
    default = signal.getsignal(signal.SIGQUIT) == signal.SIG_DFL
    print(started, multiprocessing.get_start_method(), default, flush=True)

imported_by = os.getpid()
if __name__ == "__main__":
    fork_processes()
    if sys.argv[1] == "threads":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    multiprocessing.set_start_method("spawn", force=True)
    signal.signal(signal.SIGQUIT, lambda *_: None)
    for hook in hooks.values():
        hook("Engine", "server_args")
    process = multiprocessing.Process(target=report, args=(os.getpid(),))
    process.start()
    process.join()
    print(len(hooks), process.exitcode)
"""


@pytest.mark.parametrize(("threads", "expected"), [("none", "forked"), ("threads", "spawned")])
def test_processes_are_forked_from_a_single_thread_only(threads: str, expected: str, tmp_path: Path) -> None:
    program = tmp_path / "main.py"
    program.write_text(_PROGRAM)
    done = subprocess.run(
        [sys.executable, program, threads], capture_output=True, text=True, check=True, timeout=120
    )
    # The copy's own processes are spawned, and SIGQUIT ends it.
    assert done.stdout.splitlines() == [f"{expected} spawn True", "2 0"]
    assert ("Slow start: the main process has 2 threads" in done.stderr) == (expected == "spawned")
