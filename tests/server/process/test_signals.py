"""SIGHUP: reload, unless the terminal is closed."""

import os
import pty
import signal
import sys
from subprocess import PIPE, Popen

PROGRAM = """
import asyncio
from serval.process.signals import stop_on_signals

async def main():
    stop = stop_on_signals(on_hangup=lambda: print("read again", flush=True))
    print("ready", flush=True)
    await stop.wait()
    print("stopped", flush=True)

asyncio.run(main())
"""


TAKE_TERMINAL = """
import fcntl, signal, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which the tests may run, has it ignored
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""


def test_hangup_stops_a_program_only_if_its_terminal_is_closed() -> None:
    ours, its = pty.openpty()
    program = Popen(
        [sys.executable, "-c", TAKE_TERMINAL + PROGRAM],
        stdin=its, stdout=PIPE, start_new_session=True, text=True,
    )  # fmt: skip
    os.close(its)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGHUP)
    assert program.stdout.readline() == "read again\n"
    os.close(ours)
    assert program.stdout.readline() == "stopped\n"
    assert program.wait(60) == 0
    program.stdout.close()


def test_hangup_without_a_terminal_never_stops_a_program() -> None:
    program = Popen([sys.executable, "-c", PROGRAM], stdout=PIPE, start_new_session=True, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    for _ in range(2):
        program.send_signal(signal.SIGHUP)
        assert program.stdout.readline() == "read again\n"
    program.terminate()
    assert program.wait(60) == 0
    program.stdout.close()
