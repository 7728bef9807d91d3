"""Signals: SIGINT and SIGTERM stop a program, SIGHUP has it read its settings again."""

import asyncio
import os
import signal
from collections.abc import Callable


def stop_on_signals(*, on_hangup: Callable[[], None]) -> asyncio.Event:
    """An event that SIGINT and SIGTERM set. SIGHUP calls `on_hangup`, as in daemons.

    The system also sends SIGHUP when a terminal is closed. A program started there then stops, as it would
    by default, unless it was started with nohup.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    lives_with_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def hangup() -> None:
        if lives_with_terminal and not _has_terminal():
            stop.set()
        else:
            on_hangup()

    loop.add_signal_handler(signal.SIGHUP, hangup)
    return stop


def _has_terminal() -> bool:
    """True if the process has a controlling terminal that is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
