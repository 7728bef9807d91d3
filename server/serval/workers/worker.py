"""`python -m serval.workers.worker`: one worker. The pool starts it, its settings are in the environment."""

import argparse
import contextlib
import socket
import sys
from collections.abc import Sequence

import uvloop

from serval.errors import ServalError
from serval.gateway import Announcements, serve_on
from serval.http_server import raise_file_limit
from serval.listening import bind
from serval.settings import Settings, load_settings
from serval.startup import stopped_by_signal
from serval.telemetry.logs import configure_logging
from serval.telemetry.shared import share_metrics
from serval.workers.channel import FAILED, GO, LOADED, SERVING, Channel, ChannelClosedError, channel_over


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or until the parent ends; returns the exit code."""
    parser = argparse.ArgumentParser(prog="serval gateway worker")
    parser.add_argument("--index", type=int, required=True, help="which of the workers this is, from 0")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the channel to the parent")
    args = parser.parse_args(argv)
    raise_file_limit()
    return uvloop.run(_run(args.index, socket.socket(fileno=args.channel)))


async def _run(index: int, connection: socket.socket) -> int:
    channel = await channel_over(connection)
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        if settings.metrics_directory is not None:
            share_metrics(index)
        await _serve(settings, channel)
    except ServalError as error:
        channel.say(FAILED, str(error))
        return 1
    except ChannelClosedError:
        return 1
    finally:
        await channel.finish()
    return 0


async def _serve(settings: Settings, channel: Channel) -> None:
    async def loaded() -> None:
        channel.say(LOADED)
        word, _ = await channel.hear()
        assert word == GO

    announcements = Announcements(
        progress=lambda _: None, loaded=loaded, serving=lambda model: channel.say(SERVING, model)
    )
    # A socket for each worker, not one for all: the kernel then deals connections out evenly, while workers
    # that accept from one socket race, and a burst of streams ends up with the fastest of them.
    with contextlib.closing(bind(settings.host, settings.port, "--port", shared=True)) as listener:
        await serve_on(listener, settings, stop=stopped_by_signal(), announcements=announcements)


if __name__ == "__main__":
    sys.exit(main())
