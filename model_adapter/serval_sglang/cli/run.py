"""Ends of a command: exit code and message of an error, of Ctrl+C, and of a reader that has gone."""

import os
import signal
import sys
from collections.abc import Callable


def run_command(name: str, command: Callable[[], int]) -> int:
    """Return the exit code of `command`: its own, 1 after an error, or 128 and the signal's number.

    `OSError` and `ValueError` are errors whose message states the remedy, such as `CheckpointError`.
    """
    try:
        code = command()
        # Here, where an error can still be handled.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of a pipe, `head` for one, has ended. Python would write the rest to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (OSError, ValueError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
