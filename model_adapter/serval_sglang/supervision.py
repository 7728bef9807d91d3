"""Runs one process with all its descendants: passes stop signals on, and leaves none of them behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def supervise(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run ``command`` until it ends; SIGTERM and SIGINT reach it as SIGTERM.

    Returns:
        0 if it ended with 0 or because it was told to stop, else 1 after saying on stderr how it ended.
    """
    stopping = False
    with _arriving((*_STOP_SIGNALS, signal.SIGCHLD)) as arrivals:
        # A session of its own: a terminal's Ctrl-C must not reach the descendants beside the signal passed on
        # here, and whatever they leave running can be ended as one group.
        process = subprocess.Popen(command, env=dict(environment), start_new_session=True)
        try:
            while process.poll() is None:
                if arrivals.recv(1)[0] in _STOP_SIGNALS:
                    stopping = True
                    process.terminate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    returncode = process.returncode
    if returncode == 0 or (stopping and returncode == -signal.SIGTERM):
        return 0
    print(f"serval: the engine has stopped: {_describe(returncode)}; the reason is above.", file=sys.stderr)
    return 1


@contextlib.contextmanager
def _arriving(signals: Sequence[signal.Signals]) -> Iterator[socket.socket]:
    """A socket that receives the number of each signal as a byte, also of one that comes just before waiting.

    A handler in Python would not do: it runs between two steps of the interpreter, so a signal that comes
    after the last step before a system call that waits is acted on only when that call ends.
    """
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    previous_fd = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    # Only a signal with a handler in Python is written to the socket.
    previous = {signum: signal.signal(signum, lambda *_: None) for signum in signals}
    try:
        yield receiving
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(previous_fd)
        receiving.close()
        sending.close()


def _describe(returncode: int) -> str:
    if returncode == -signal.SIGKILL:
        # SGLang's main process ends so when one of its processes failed; so does the kernel when memory ran
        # out.
        return "one of its processes failed, or it was killed from outside (SIGKILL)"
    if returncode < 0:
        return f"ended by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"
