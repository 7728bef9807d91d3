"""A pair of engines as one: a prefill engine computes prompts, a decode engine writes the answers.

Both get each request, with the same room (a number) by which the decode engine fetches the keys and values
from the prefill engine. The decode engine's answer is the answer; that of the prefill engine ends when these
have been fetched, and is read for its errors only. What ends one half ends the other: SGLang would let the
decode engine wait for five minutes for a prefill engine that has failed.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from msgspec.structs import replace

from serval.engine.answer import NotAnsweredError, OnFirst
from serval.engine.client import RETRY_AFTER_S, SglangEngine, connect_engine
from serval.engine.member import Member
from serval.engine.model_check import difference, identity_of
from serval.engine.pair_url import PairUrl, is_pair, pair_of
from serval.engine.protocol import (
    Bootstrap,
    DeltaSink,
    EngineInfo,
    GenerateRequest,
    GenerationDelta,
    RankLoad,
)
from serval.engine.readiness import StopReason
from serval.errors import (
    EngineStreamBrokenError,
    EngineUnavailableError,
    InvalidRequestError,
    SettingsError,
)
from serval.settings import Settings

logger = logging.getLogger(__name__)

# The prefill engine may learn a little later than the decode engine that all has been fetched.
_ENDING_S: Final = 5.0
_READY: Final = 200


class EnginePair:
    """A `Member` of two engines. Use `connect_member` to create one."""

    def __init__(self, url: PairUrl, prefill: SglangEngine, decode: SglangEngine) -> None:
        self._url = url
        self._prefill = prefill
        self._decode = decode
        self._open_breakers: set[str] = set()
        # Requests that the prefill engine still has, though they have been answered.
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def is_failing(self) -> bool:
        """See `Member`: either half fails."""
        return self._prefill.is_failing or self._decode.is_failing

    @property
    def is_silent(self) -> bool:
        """See `Member`: either half is."""
        return self._prefill.is_silent or self._decode.is_silent

    async def generate_once(
        self, request: GenerateRequest, sink: DeltaSink, *, on_first: OnFirst, fresh: bool
    ) -> None:
        """See `SglangEngine.generate_once`. An answer begins with the decode engine's first token.

        Once it has begun, a lost connection to the prefill engine does no harm: all has been fetched.
        """
        if request.prompt_logprobs:
            raise InvalidRequestError(
                "Log-probabilities of a prompt are not available from engines that share out prefill and"
                " decode."
            )
        if self.is_failing:
            error = EngineUnavailableError("The engine fails at the moment.", retry_after_s=RETRY_AFTER_S)
            raise NotAnsweredError(error, sent=False, refused=True)
        begun = False

        def note_first(delta: GenerationDelta | None) -> None:
            nonlocal begun
            begun = True
            on_first(delta)

        for_prefill, for_decode = self._requests(request)
        prefill = asyncio.create_task(
            self._prefill.generate_once(for_prefill, _Unread(), on_first=lambda _: None, fresh=fresh)
        )
        decode = asyncio.create_task(
            self._decode.generate_once(for_decode, sink, on_first=note_first, fresh=fresh)
        )
        try:
            await _first_ended(prefill, decode, has_begun=lambda: begun)
        except NotAnsweredError as error:
            # The other half may have received it.
            raise NotAnsweredError(
                error.error, sent=True, stale=error.stale, refused=error.refused, busy=error.busy
            ) from error
        except EngineStreamBrokenError as error:
            if begun:
                raise
            raise NotAnsweredError(error, sent=True) from error
        finally:
            if _has_succeeded(decode):
                self._end_soon(prefill)
            else:
                await _cancelled(prefill, decode)

    def _requests(self, request: GenerateRequest) -> tuple[GenerateRequest, GenerateRequest]:
        """Return the requests to the prefill engine and to the decode engine, with a room of their own."""
        # SGLang takes 0 for a room that has not been written yet.
        room = secrets.randbelow((1 << 63) - 1) + 1
        bootstrap = Bootstrap(self._url.bootstrap_host, self._url.bootstrap_port, room)
        for_prefill = replace(request, bootstrap=bootstrap)
        # The rank is the prefill engine's, where the prompt may be cached.
        return for_prefill, replace(for_prefill, rank=None, prefill_rank=request.rank)

    def _end_soon(self, prefill: asyncio.Task[None]) -> None:
        task = asyncio.create_task(_ended(prefill))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def finish(self) -> None:
        """Wait for requests that the prefill engine still has."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def info(self) -> EngineInfo:
        """See `Member`: what both can do."""
        prefill, decode = await asyncio.gather(self._prefill.info(), self._decode.info())
        identities = (await identity_of(self._prefill, prefill), await identity_of(self._decode, decode))
        problem = difference(*identities)
        if problem is not None:
            raise SettingsError(f"its two engines serve different models: of the prefill engine, {problem}")
        # Requests stay with the decode engine; the prefill engine passes them on.
        return EngineInfo(
            model_path=decode.model_path,
            context_length=decode.context_length,
            max_prompt_tokens=min(prefill.max_prompt_tokens, decode.max_prompt_tokens),
            max_running_requests=decode.max_running_requests,
            # Prompts are found again in the prefill engine's cache.
            kv_tokens=prefill.kv_tokens,
            architectures=decode.architectures,
            checkpoint=decode.checkpoint,
        )

    async def tokens_of(self, text: str) -> list[int] | None:
        """See `Member`. `info` compares the two engines."""
        return await self._decode.tokens_of(text)

    async def rank_loads(self) -> list[RankLoad]:
        """See `Member`: the prefill engine's ranks, each with its part of what the decode engine has."""
        prefill, decode = await asyncio.gather(self._prefill.rank_loads(), self._decode.rank_loads())
        return joined_loads(prefill, decode)

    async def ready_status(self) -> int | None:
        """See `Member`: 200 if both are ready."""
        statuses = await asyncio.gather(self._prefill.ready_status(), self._decode.ready_status())
        known = [status for status in statuses if status is not None]
        return max(known) if len(known) == len(statuses) else None

    def note_lost(self) -> None:
        """See `Member`: which half it was is not known; the next question tells."""
        self._prefill.note_lost()
        self._decode.note_lost()

    def watch_stops(self, note: Callable[[StopReason], None]) -> None:
        """See `Member`: once for both halves, when the first of them stops."""
        for engine, other in ((self._prefill, self._decode), (self._decode, self._prefill)):
            engine.watch_stops(partial(_note_first_stop, other, note))

    def watch_breaker(self, note: Callable[[bool], None]) -> None:
        """See `Member`: open while that of either half is."""
        for half, engine in (("prefill", self._prefill), ("decode", self._decode)):
            engine.watch_breaker(partial(self._breaker_changed, half, note))

    def _breaker_changed(self, half: str, note: Callable[[bool], None], is_open: bool) -> None:
        if is_open:
            logger.warning("the %s engine of the pair %s fails", half, self._url.name)
            self._open_breakers.add(half)
        else:
            self._open_breakers.discard(half)
        note(bool(self._open_breakers))

    def interrupt(self) -> None:
        """See `Member`."""
        self._prefill.interrupt()
        self._decode.interrupt()


def _note_first_stop(other: SglangEngine, note: Callable[[StopReason], None], reason: StopReason) -> None:
    if other.readiness.status == _READY:
        note(reason)


def joined_loads(prefill: Sequence[RankLoad], decode: Sequence[RankLoad]) -> list[RankLoad]:
    """Return the load of each prefill rank as that of a place.

    A request is with the decode engine from its beginning to its end, so all are counted there; those that
    the prefill engine has not computed wait.
    """
    ranks = max(len(prefill), 1)
    there = -(-sum(load.num_running_reqs + load.num_waiting_reqs for load in decode) // ranks)
    kv_use = max((load.token_usage for load in decode), default=0.0)
    return [
        replace(
            load,
            num_running_reqs=max(there - load.num_waiting_reqs, 0),
            token_usage=max(load.token_usage, kv_use),
        )
        for load in prefill
    ]


class _Unread:
    """A sink for the answer of the prefill engine: the decode engine sends its token again."""

    def send(self, _: GenerationDelta) -> bool:
        return True

    async def ready(self) -> None:
        return


async def _first_ended(
    prefill: asyncio.Task[None], decode: asyncio.Task[None], *, has_begun: Callable[[], bool]
) -> None:
    """Wait for the end of the answer. Raises what either half raises, the prefill engine's first."""
    await asyncio.wait({prefill, decode}, return_when=asyncio.FIRST_COMPLETED)
    if _has_succeeded(decode):
        return
    if prefill.done():
        try:
            prefill.result()
        except (NotAnsweredError, EngineStreamBrokenError):
            if not has_begun():
                raise
    await decode


def _has_succeeded(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    """End the tasks; each aborts its request."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _ended(prefill: asyncio.Task[None]) -> None:
    """Wait a little for the prefill engine's answer to end, then abort it."""
    await asyncio.wait({prefill}, timeout=_ENDING_S)
    await _cancelled(prefill)


@asynccontextmanager
async def connect_member(settings: Settings, url: str) -> AsyncIterator[Member]:
    """Create a client of an engine or of a pair, as `connect_engine` does. Raises `SettingsError`."""
    if not is_pair(url):
        async with connect_engine(settings, url) as engine:
            yield engine
        return
    halves = pair_of(url)
    async with (
        connect_engine(settings, halves.prefill, role="prefill") as prefill,
        connect_engine(settings, halves.decode, role="decode") as decode,
    ):
        pair = EnginePair(halves, prefill, decode)
        try:
            yield pair
        finally:
            await pair.finish()
