"""Driver of sessions against a server with OpenAI's API; records the times of each request."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serval_load.answers import Answer, read_stream
from serval_load.client import Peer, exchange, prepared
from serval_load.workloads.sessions import CONVERSATIONS, LastAnswer

_REPORT_EVERY_S = 5.0


@dataclass(frozen=True)
class Request:
    """A request of a session and its outcome. Times are in seconds; `at` counts from the start of the run."""

    kind: str
    session: int
    turn: int
    at: float
    status: int
    complete: bool
    error: str
    first_s: float | None
    end_s: float
    gaps_s: tuple[float, ...]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    calls: int
    # The client closed the connection on purpose.
    vanished: bool


@dataclass
class Progress:
    """Counts of sessions that began, and of requests."""

    begun: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0


async def drive(
    peer: Peer,
    sessions: Sequence[tuple[float, str]],
    *,
    model: str,
    seed: int,
    vanish: float = 0.0,
    log: Callable[[str], None],
) -> list[Request]:
    """Begin each session at its time (an open loop), and wait for all to end.

    `vanish` is the share of requests whose client leaves before the answer is complete.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    progress = Progress()
    found: list[Request] = []
    reporter = asyncio.create_task(report(progress, len(sessions), log))
    try:
        async with asyncio.TaskGroup() as group:
            for number, (at, kind) in enumerate(sessions):
                await asyncio.sleep(max(started + at - loop.time(), 0.0))
                progress.begun += 1
                source = random.Random(seed * 1_000_003 + number)
                run = _session(peer, kind, number, started, model, source, vanish, progress, found)
                group.create_task(run)
    finally:
        reporter.cancel()
    return sorted(found, key=lambda request: request.at)


async def _session(  # noqa: PLR0917  # called once
    peer: Peer,
    kind: str,
    number: int,
    started: float,
    model: str,
    source: random.Random,
    vanish: float,
    progress: Progress,
    found: list[Request],
) -> None:
    loop = asyncio.get_running_loop()
    previous = LastAnswer()
    for turn, asked in enumerate(CONVERSATIONS[kind](source, previous)):
        await asyncio.sleep(asked.pause_s)
        body = {"model": model, "stream": True, "stream_options": {"include_usage": True}, **asked.body}
        leaves_s = source.uniform(0.05, 1.0) if source.random() < vanish else None
        request = prepared(peer, json.dumps(body).encode())
        progress.running += 1
        at = loop.time() - started
        answer = read_stream(await exchange(peer, request, vanish_after_s=leaves_s))
        progress.running -= 1
        progress.done += 1
        left = leaves_s is not None and not answer.complete
        progress.failed += not answer.complete and not left
        found.append(kept(answer, kind, number, turn, at, vanished=left))
        previous.calls = answer.calls
        if not answer.complete:
            return


def kept(answer: Answer, kind: str, session: int, turn: int, at: float, *, vanished: bool = False) -> Request:
    """Return the outcome of a request without its text."""
    return Request(
        kind=kind,
        session=session,
        turn=turn,
        at=at,
        status=answer.status,
        complete=answer.complete,
        error=answer.error[:200],
        first_s=answer.first_s,
        end_s=answer.end_s,
        gaps_s=tuple(answer.gaps_s),
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cached_tokens=answer.cached_tokens,
        calls=len(answer.calls),
        vanished=vanished,
    )


async def report(progress: Progress, total: int, log: Callable[[str], None]) -> None:
    """Log the counts every few seconds until cancelled."""
    while True:
        await asyncio.sleep(_REPORT_EVERY_S)
        log(
            f"{progress.begun} of {total} sessions begun, {progress.running} requests running,"
            f" {progress.done} done, {progress.failed} failed"
        )
