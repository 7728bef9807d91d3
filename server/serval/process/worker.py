"""`python -m serval.process.worker`: a worker, started by the pool with its settings in the environment."""

import argparse
import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence

import uvloop

from serval.errors import ServalError
from serval.http.server import raise_file_limit
from serval.http.sockets import bind
from serval.live_settings import LiveSettings, from_line
from serval.process.channel import (
    FAILED,
    GO,
    LIVE,
    LOADED,
    SERVING,
    Channel,
    ChannelClosedError,
    channel_over,
)
from serval.process.gateway import Lifecycle, serve
from serval.process.signals import stop_on_signals
from serval.process.startup import print_progress
from serval.settings import Settings, load_settings
from serval.telemetry.logs import configure_logging
from serval.telemetry.shared import share_metrics


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or until the parent ends; returns the exit code."""
    parser = argparse.ArgumentParser(prog="serval gateway worker")
    parser.add_argument("--index", type=int, required=True, help="which of the workers this is, from 0")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the channel to the parent")
    parser.add_argument("--replacement", action="store_true", help="it replaces a worker that ended")
    args = parser.parse_args(argv)
    raise_file_limit()
    return uvloop.run(_run(args.index, socket.socket(fileno=args.channel), replacement=args.replacement))


async def _run(index: int, connection: socket.socket, *, replacement: bool) -> int:
    channel = await channel_over(connection)
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        if settings.metrics_directory is not None:
            share_metrics(index)
        await _serve(index, settings, channel, replacement=replacement)
    except ServalError as error:
        channel.send(FAILED, str(error))
        return 1
    except ChannelClosedError:
        return 1
    finally:
        await channel.finish()
    return 0


async def _serve(index: int, settings: Settings, channel: Channel, *, replacement: bool) -> None:
    word, first = await channel.receive()
    assert word == LIVE
    parent = _ParentMessages(channel)

    async def on_loaded() -> None:
        channel.send(LOADED)
        await parent.wait_for_go()

    lifecycle = Lifecycle(
        # The parent handles SIGHUP for all workers.
        stop=stop_on_signals(on_hangup=lambda: None),
        live=from_line(first),
        changes=parent.changes(),
        # One worker's lines are enough; the parent prints what all have reached.
        progress=print_progress if index == 0 else lambda _: None,
        on_loaded=on_loaded,
        on_serving=lambda model: channel.send(SERVING, model),
        replaces_worker=replacement,
        side_servers=index == 0,
    )
    # A socket for each worker: the kernel then spreads connections evenly. Workers that accept from one
    # socket race, and a burst of streams ends up with the fastest of them.
    with (
        contextlib.closing(bind(settings.host, settings.port, "--port", shared=True)) as listener,
        parent.receiving(),
    ):
        await serve(listener, settings, lifecycle)


class _ParentMessages:
    """The parent's messages after the first."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._changes: asyncio.Queue[LiveSettings] = asyncio.Queue()
        self._go = asyncio.Event()
        self._ended = False

    async def wait_for_go(self) -> None:
        """Wait for GO. Raises `ChannelClosedError` if the parent ends first."""
        await self._go.wait()
        if self._ended:
            raise ChannelClosedError

    @contextlib.contextmanager
    def receiving(self) -> Iterator[None]:
        """Receive messages while entered."""
        task = asyncio.create_task(self._receive())
        try:
            yield
        finally:
            task.cancel()

    async def _receive(self) -> None:
        try:
            while True:
                word, rest = await self._channel.receive()
                if word == LIVE:
                    self._changes.put_nowait(from_line(rest))
                elif word == GO:
                    self._go.set()
        except ChannelClosedError:
            self._ended = True
            self._go.set()

    async def changes(self) -> AsyncIterator[LiveSettings]:
        """Yield the live settings whenever they change."""
        while True:
            yield await self._changes.get()


if __name__ == "__main__":
    sys.exit(main())
