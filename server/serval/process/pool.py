"""The parent of the workers: reserves the port, starts the workers, and replaces those that end."""

import asyncio
import contextlib
import logging
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from serval.errors import WorkerError
from serval.http.sockets import bind, reserve, url_of
from serval.limits.service import serve_limits
from serval.live_settings import LiveSettings, to_line
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
from serval.process.child import ChildProcess, ProcessSpec, python_command, start
from serval.process.reloading import settings_changes
from serval.process.signals import stop_on_signals
from serval.process.startup import Progress, initial_live_settings, print_progress
from serval.setting_names import variable_of
from serval.settings import Settings, child_environment
from serval.telemetry.shared import forget_live_values
from serval.usage.factory import write_left_usage

logger = logging.getLogger(__name__)

# Pause before a worker is replaced; it doubles each time one ends within _SHORT_LIFE_S.
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_SHORT_LIFE_S = 30.0
_STOP_MARGIN_S = 5.0
_FINAL_MESSAGES_S = 1.0


def run_workers(settings: Settings, *, progress: Progress = print_progress) -> None:
    """Run `settings.workers` processes until SIGINT or SIGTERM, then let them drain.

    Raises a `ServalError` if they cannot start.
    """

    async def main() -> None:
        reread = asyncio.Event()
        stop = stop_on_signals(on_hangup=reread.set)
        await _Pool(settings, stop, reread, progress).run()

    uvloop.run(main())


@dataclass
class _Pool:
    """All workers. They listen once all are loaded; one that ends before is an error, later replaced."""

    settings: Settings
    stop: asyncio.Event
    # Set to read keys and limits again immediately.
    reread: asyncio.Event
    progress: Progress
    _loaded: set[int] = field(default_factory=set)
    _serving: set[int] = field(default_factory=set)
    _all_loaded: asyncio.Event = field(default_factory=asyncio.Event)
    # The live settings in force, and the channels that receive later ones.
    _live: str = ""
    _channels: dict[int, Channel] = field(default_factory=dict)
    _url: str = ""

    async def run(self) -> None:
        """Run until `stop` is set and all workers have ended. Raises a `ServalError`."""
        settings = self.settings
        live = initial_live_settings(settings, progress=self.progress)
        self._live = to_line(live)
        with (
            contextlib.closing(reserve(settings.host, settings.port, "--port")) as port,
            tempfile.TemporaryDirectory(prefix="serval-gateway-", ignore_cleanup_errors=True) as directory,
        ):
            self._url = url_of(port)
            update = {
                "port": port.getsockname()[1],
                "metrics_directory": Path(directory),
                "limits_socket": Path(directory) / "limits.sock",
                "usage_journal": settings.usage_journal or Path(directory) / "usage",
                # Only the parent reads it, so that all workers have the same settings whenever they started.
                "settings_file": None,
            }
            # Redis counts for all gateways.
            counting = (
                contextlib.nullcontext()
                if settings.limits_url is not None
                else serve_limits(update["limits_socket"], settings)
            )
            async with counting:
                sender = asyncio.create_task(self._send_changes(live))
                try:
                    await self._run_all(settings.model_copy(update=update | _fixed_ports(settings)))
                finally:
                    sender.cancel()
                    if settings.usage_journal is None:
                        await asyncio.to_thread(write_left_usage, settings, update["usage_journal"])

    async def _send_changes(self, live: LiveSettings) -> None:
        async for changed in settings_changes(self.settings, live, requested=self.reread):
            self._live = to_line(changed)
            for channel in self._channels.values():
                channel.send(LIVE, self._live)

    async def _run_all(self, settings: Settings) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(settings.workers):
                    group.create_task(self._keep_running(index, settings))
        except ExceptionGroup as errors:
            # They usually have the same cause.
            raise errors.exceptions[0] from None

    async def _keep_running(self, index: int, settings: Settings) -> None:
        """Keep worker `index` running until the stop. Raises `WorkerError` if it ends before all serve."""
        pause_s = _FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        replacement = False
        while not self.stop.is_set():
            started = loop.time()
            async with _started_worker(index, settings, replacement=replacement) as (worker, channel):
                reason = await self._supervise(index, worker, channel)
            if self.stop.is_set():
                return
            if settings.metrics_directory is not None:
                forget_live_values(index, settings.metrics_directory)
            if len(self._serving) < settings.workers:
                raise WorkerError(reason)
            pause_s = _FIRST_PAUSE_S if loop.time() - started > _SHORT_LIFE_S else pause_s
            logger.error("worker ended", extra={"fields": {"worker": index, "reason": reason}})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            replacement = True

    async def _supervise(self, index: int, worker: ChildProcess, channel: Channel) -> str:
        """Wait until the worker ends, or stop it when `stop` is set; return why it ended."""
        receiver = asyncio.create_task(self._receive(index, channel))
        end = asyncio.create_task(worker.wait())
        stop = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({end, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                # Not earlier: to a worker that waits for GO, a closed channel means the end of the parent.
                channel.close()
                await worker.stop(grace_s=self.settings.shutdown_grace_s + _STOP_MARGIN_S)
                return "stopped"
            await asyncio.wait({receiver}, timeout=_FINAL_MESSAGES_S)
            failure = receiver.result() if receiver.done() else None
            return failure or f"worker {index} ended with status {end.result()}; its output is above"
        finally:
            for task in (receiver, end, stop):
                task.cancel()
            await asyncio.gather(receiver, end, stop, return_exceptions=True)

    async def _receive(self, index: int, channel: Channel) -> str | None:
        """Receive and answer the worker's messages; return the failure it reports, or None when it closes."""
        with self._subscribed(index, channel), contextlib.suppress(ChannelClosedError):
            while True:
                word, rest = await channel.receive()
                if word == LOADED:
                    self._loaded.add(index)
                    if len(self._loaded) == self.settings.workers:
                        self._all_loaded.set()
                    await self._all_loaded.wait()
                    channel.send(GO)
                elif word == SERVING:
                    self._mark_serving(index, model=rest)
                elif word == FAILED:
                    return rest
        return None

    @contextlib.contextmanager
    def _subscribed(self, index: int, channel: Channel) -> Iterator[None]:
        """Send the worker the live settings, now and whenever they change."""
        channel.send(LIVE, self._live)
        self._channels[index] = channel
        try:
            yield
        finally:
            del self._channels[index]

    def _mark_serving(self, index: int, *, model: str) -> None:
        restarted = len(self._serving) == self.settings.workers
        self._serving.add(index)
        if restarted:
            logger.info("worker serves again", extra={"fields": {"worker": index}})
        elif len(self._serving) == self.settings.workers:
            self.progress(f"serving {model} with {self.settings.workers} workers on {self._url}")


def _fixed_ports(settings: Settings) -> dict[str, int]:
    """Fixed ports where the settings ask for any free one, so that a replaced worker keeps them."""
    fixed = {}
    for name, host in (("admin_port", settings.admin_host), ("metrics_port", settings.metrics_host)):
        if getattr(settings, name) == 0:
            with bind(host, 0, variable_of(name)) as probe:
                fixed[name] = probe.getsockname()[1]
    return fixed


@contextlib.asynccontextmanager
async def _started_worker(
    index: int, settings: Settings, *, replacement: bool
) -> AsyncIterator[tuple[ChildProcess, Channel]]:
    """Start worker `index` and open the channel to it; stop it on exit."""
    if index > 0:
        # Only the first worker serves the admin API, and the metrics of all on their own port.
        settings = settings.model_copy(update={"admin_port": None})
    ours, theirs = socket.socketpair()
    with _closing_on_error(ours), theirs:
        arguments = ["--index", str(index), "--channel", str(theirs.fileno())]
        if replacement:
            arguments.append("--replacement")
        spec = ProcessSpec(
            name=f"worker {index}",
            argv=python_command("serval.process.worker", *arguments),
            environment=child_environment(settings),
            relay=False,
            descriptors=[theirs.fileno()],
        )
        worker = await start(spec)
    try:
        channel = await channel_over(ours)
        try:
            yield worker, channel
        finally:
            channel.close()
    finally:
        await worker.stop(grace_s=_STOP_MARGIN_S)


@contextlib.contextmanager
def _closing_on_error(connection: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
