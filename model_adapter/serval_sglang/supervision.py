"""Runs one process with all its descendants: passes stop signals on, and leaves none of them behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def supervise(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run ``command`` until it ends; SIGTERM and SIGINT reach it as SIGTERM.

    Returns:
        0 if it ended with 0 or because it was told to stop, else 1 after saying on stderr how it ended.
    """
    process: subprocess.Popen[bytes] | None = None
    stopping = False

    def pass_on(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        if process is not None:
            process.send_signal(signal.SIGTERM)

    previous = {signum: signal.signal(signum, pass_on) for signum in _STOP_SIGNALS}
    try:
        # A session of its own: a terminal's Ctrl-C must not reach the descendants beside the signal passed on
        # here, and whatever they leave running can be ended as one group.
        process = subprocess.Popen(command, env=dict(environment), start_new_session=True)
        if stopping:
            process.send_signal(signal.SIGTERM)
        returncode = process.wait()
    finally:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    if returncode == 0 or (stopping and returncode == -signal.SIGTERM):
        return 0
    print(f"serval: the engine has stopped: {_describe(returncode)}; the reason is above.", file=sys.stderr)
    return 1


def _describe(returncode: int) -> str:
    if returncode == -signal.SIGKILL:
        # SGLang's main process ends so when one of its processes failed; so does the kernel when memory ran
        # out.
        return "one of its processes failed, or it was killed from outside (SIGKILL)"
    if returncode < 0:
        return f"ended by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"
