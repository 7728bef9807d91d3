"""Engines and gateway as one server: started together, watched, stopped one after the other."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp

from serval.errors import StackError
from serval.process.child import ChildProcess, LineSink, ProcessSpec, print_line, start
from serval.process.signals import stop_on_signals

_POLL_INTERVAL_S = 0.1
_PROBE_TIMEOUT_S = 30.0
_ENGINE_GRACE_S = 15.0


@dataclass(frozen=True, kw_only=True)
class StackSpec:
    """The engines, the gateway, and the URLs that answer once each is ready. Times are in seconds."""

    engines: Sequence[ProcessSpec]
    engine_ready_urls: Sequence[str]
    engine_start_timeout_s: float
    gateway: ProcessSpec
    gateway_ready_url: str
    gateway_start_timeout_s: float = 60.0
    gateway_grace_s: float = 30.0


async def run_stack(
    spec: StackSpec,
    *,
    on_ready: Callable[[], Awaitable[None]],
    on_line: LineSink = print_line,
    on_stop: Callable[[], None] = lambda: None,
) -> int:
    """Run engines and gateway until a signal (returns 0) or until one of them ends (raises `StackError`).

    `on_ready` is awaited once, when all answer; `on_line` receives the lines that they write; `on_stop` is
    called before they are stopped. SIGINT and SIGTERM stop the gateway first, so that it drains
    while the engines still answer, then these. SIGHUP is forwarded to the gateway.
    """
    engines: list[ChildProcess] = []
    gateways: list[ChildProcess] = []
    ready_to_reread = False

    def hangup() -> None:
        # A starting gateway may have no handler yet and would end; it reads its settings anyway.
        if ready_to_reread:
            gateways[0].signal(signal.SIGHUP)

    stop_requested = stop_on_signals(on_hangup=hangup)
    try:
        for process in spec.engines:
            engines.append(await start(process, on_line=on_line))
        # The gateway waits for an engine by itself, and has done its imports by then.
        gateways.append(await start(spec.gateway, on_line=on_line))
        started = [*engines, *gateways]
        began = asyncio.get_running_loop().time()
        for child, ready_url in zip(engines, spec.engine_ready_urls, strict=True):
            ready = _wait_until_ready(child, ready_url, timeout_s=spec.engine_start_timeout_s, since=began)
            if not await _finish_unless_stopped(ready, started, stop_requested):
                return 0
        ready = _wait_until_ready(gateways[0], spec.gateway_ready_url, timeout_s=spec.gateway_start_timeout_s)
        if not await _finish_unless_stopped(ready, started, stop_requested):
            return 0
        ready_to_reread = True
        await on_ready()
        await _finish_unless_stopped(stop_requested.wait(), started, stop_requested)
        return 0
    finally:
        on_stop()
        for gateway in gateways:
            await gateway.stop(grace_s=spec.gateway_grace_s)
        await asyncio.gather(*(engine.stop(grace_s=_ENGINE_GRACE_S) for engine in engines))


async def _finish_unless_stopped(
    work: Awaitable[object], children: list[ChildProcess], stop_requested: asyncio.Event
) -> bool:
    """Await `work`; False if a stop was requested first. Raises `StackError` if a child ends first."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(stop_requested.wait())
    ends = {asyncio.ensure_future(child.wait()): child for child in children}
    pending = {task, stop, *ends}
    try:
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            return False
        for end, child in ends.items():
            if end.done():
                raise StackError(describe_end(child), process=child.spec.name)
        task.result()
        return True
    finally:
        for waiting in pending:
            waiting.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _wait_until_ready(
    child: ChildProcess, url: str, *, timeout_s: float, since: float | None = None
) -> None:
    """Poll `url` until it answers 200. Raises `StackError` `timeout_s` after `since`, or after now."""
    deadline = (asyncio.get_running_loop().time() if since is None else since) + timeout_s
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)) as session:
        while asyncio.get_running_loop().time() < deadline:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass  # Not listening yet; the caller watches the process itself.
            await asyncio.sleep(_POLL_INTERVAL_S)
    raise StackError(
        f"{_called(child)} was not ready after {timeout_s:.0f} s ({url} did not answer 200). "
        "Its output is above; a large model on slow storage may need a longer --engine-timeout.",
        process=child.spec.name,
    )


def describe_end(child: ChildProcess) -> str:
    """Describe the child's end by its last line that names an error, else by its last line."""
    status = child.returncode or 0
    killed = status < 0
    end = f"was killed by signal {-status}" if killed else f"exited with code {status}"
    lines = [line for line in child.tail if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()]
    reason = (errors or lines or ["it printed nothing"])[-1]
    return f"{_called(child)} {end}: {reason}"


def _called(child: ChildProcess) -> str:
    name = child.spec.name
    return name if name[-1].isdigit() else f"the {name}"
