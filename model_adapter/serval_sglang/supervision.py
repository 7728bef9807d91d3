"""Running a process with all its descendants: stop signals are passed on, and no process is left behind."""

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
        0 if it ended with 0 or because it was asked to stop, else 1, with its end described on stderr.
    """
    stopping = False
    with _arriving((*_STOP_SIGNALS, signal.SIGCHLD)) as arrivals:
        # A session of its own: a terminal's Ctrl-C must not reach the descendants in addition to the signal
        # passed on here, and whatever they leave running can be ended as one group.
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
    """Yield a socket that receives each signal's number as a byte, even if it comes just before a wait.

    A handler in Python would not suffice: it runs between two steps of the interpreter, so a signal that
    arrives after the last step before a blocking system call is handled only when that call ends.
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
        # SGLang's main process kills itself when one of its processes has failed; the kernel kills it when
        # memory runs out.
        return "one of its processes failed, or it was killed from outside (SIGKILL)"
    if returncode < 0:
        return f"ended by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"
