"""The limiter of any number of gateways: the ledger is in Redis or Valkey, kept by scripts.

`scripts/` holds the ledger and its buckets, translated to Lua line by line. A script is atomic, and its time
is Redis's own. The account of a key or a team is six Redis keys with one hash tag, each with an expiry.

Only a reservation waits for an answer, and not for long. The end of a reservation is queued behind it and
retried while Redis is unreachable; only the first end counts, and one that comes after the lease changes
nothing, as in the ledger.
"""

import asyncio
import hashlib
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from itertools import islice
from typing import Any, Final, NamedTuple, cast

from msgspec.structs import astuple
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from serval.errors import SettingsError
from serval.limits.ledger import Moment
from serval.limits.limiter import LedgerUnreachableError
from serval.limits.messages import Decision, ReservationRequest

logger = logging.getLogger(__name__)

_BATCH: Final = 128
_PROBE_EVERY_S: Final = 0.2
_FIRST_CONNECT_S: Final = 2.0
# How long a gateway that stops waits for Redis to take the queued ends.
_LAST_ENDS_S: Final = 2.0
# Bound on the queued ends while Redis is unreachable; the reservations of others expire with their lease.
_MAX_UNSENT: Final = 100_000

_CONNECTION_ERRORS: Final = (RedisError, OSError, TimeoutError)


class _Script(NamedTuple):
    text: str
    sha: str

    @classmethod
    def named(cls, name: str) -> "_Script":
        folder = files("serval.limits") / "scripts"
        text = "\n".join(
            (folder / file).read_text(encoding="utf-8") for file in ("ledger.lua", f"{name}.lua")
        )
        # Redis's name for the script, not a security measure.
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_RESERVE: Final = _Script.named("reserve")
_END: Final = _Script.named("end")
_RENEW: Final = _Script.named("renew")
_CHARGE: Final = _Script.named("charge")


_KEYS: Final = ("buckets", "open", "reservations", "days", "running", "books")


class _Call(NamedTuple):
    script: _Script
    subject: str
    arguments: Sequence[str | int]

    @property
    def keys_and_arguments(self) -> list[str | int]:
        # One hash tag puts all keys into one slot of a cluster. The letter keeps it from being empty.
        tag = f"serval:{{k:{self.subject}}}"
        return [*(f"{tag}:{name}" for name in _KEYS), *self.arguments]


class _PendingReservation(NamedTuple):
    call: _Call
    answer: asyncio.Future[list[Any]]


def open_redis(url: str, *, timeout_s: float) -> Redis:
    """A client that never retries and gives up after `timeout_s`. Connects on first use.

    Raises `SettingsError` for an invalid URL; the message does not contain it.
    """
    try:
        pool = ConnectionPool.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # A reservation must not be made twice.
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        # Raises for unknown options in the URL.
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError):
        raise SettingsError(
            "SERVAL_LIMITS_URL is no URL of Redis: redis://[[USER]:PASSWORD@]HOST:PORT/DB, rediss:// for TLS,"
            " or unix:///PATH?db=DB; what is special in a URL must be percent-encoded in a password"
        ) from None
    return Redis.from_pool(pool)


async def probe_url(url: str, *, timeout_s: float) -> str | None:
    """The problem with the Redis at `url`; None if it is usable. Raises `SettingsError`."""
    redis = open_redis(url, timeout_s=timeout_s)
    try:
        await _probe(redis)
    except _CONNECTION_ERRORS as error:
        return f"{type(error).__name__}: {error}"
    finally:
        await redis.aclose()
    return None


async def _probe(redis: Redis) -> None:
    """Write a key: a full Redis and a replica refuse that. Raises one of `_CONNECTION_ERRORS`."""
    await redis.set("serval:probe", 1, px=1000)


class RedisLimiter:
    """A `Limiter` over Redis. A timeout makes it unreachable for all requests until it answers a probe.

    A single task sends everything in batches, one after the other.
    """

    def __init__(
        self, redis: Redis, *, lease_ms: int, timeout_s: float, now: Callable[[], Moment] | None = None
    ) -> None:
        """`timeout_s` bounds a batch. `now` replaces Redis's clock in tests."""
        self._redis = redis
        self._lease_ms = lease_ms
        self._timeout_s = timeout_s
        self._now = now
        self._unreachable = True
        self._reported = False
        self._stopping = False
        self._connected = asyncio.Event()
        # Outgoing queues; `_work` is set when one is non-empty or a probe is due.
        self._pending: deque[_PendingReservation] = deque()
        self._renewals: list[_Call] = []
        self._endings: deque[_Call] = deque()
        self._work = asyncio.Event()
        # Calls of each kind in a batch. Fewer after a failure: a batch that Redis cannot answer in time would
        # be sent again whole, and nothing behind it would ever arrive.
        self._batch = _BATCH

    async def reserve(self, request: ReservationRequest) -> Decision:
        """See `Limiter`. Raises `LedgerUnreachableError`."""
        if self._unreachable:
            raise LedgerUnreachableError
        # The order of the fields is that of the script's arguments.
        *limits, _ = astuple(request.limits)
        amounts = [request.tokens, request.optional_tokens, request.requests]
        budgets = [field for budget in request.limits.counted for field in astuple(budget)]
        costs = [request.cost, request.token_cost]
        given = [*amounts, *limits, self._lease_ms, *self._moment(), *costs, *budgets]
        arguments = [request.id, *("" if each is None else each for each in given)]
        call = _Call(_RESERVE, request.subject, arguments)
        reservation = _PendingReservation(call, asyncio.get_running_loop().create_future())
        self._pending.append(reservation)
        self._work.set()
        try:
            refused, *numbers, soft = await reservation.answer
        except BaseException:
            # The answer will be dropped; Redis must not keep what it may have reserved.
            self.settle(request, requests=0, tokens=0)
            raise
        numbers.append(tuple(soft))
        return Decision(refused or None, *numbers)

    def settle(self, request: ReservationRequest, *, requests: int, tokens: int, cost: int = 0) -> None:
        """See `Limiter`."""
        if len(self._endings) < _MAX_UNSENT:
            arguments = [request.id, requests, tokens, self._lease_ms, *self._moment(), cost]
            self._endings.append(_Call(_END, request.subject, arguments))
            self._work.set()

    def charge(self, request: ReservationRequest, day: int, *, tokens: int, cost: int) -> None:
        """See `SharedLimiter`. Sent again until Redis has it."""
        if len(self._endings) < _MAX_UNSENT:
            self._endings.append(_Call(_CHARGE, request.subject, [request.id, day, tokens, cost]))
            self._work.set()

    def renew(self, requests: Sequence[ReservationRequest]) -> None:
        """See `Limiter`."""
        by_subject: defaultdict[str, list[str]] = defaultdict(list)
        for request in requests:
            by_subject[request.subject].append(request.id)
        # They replace older renewals: requests that are missing here have ended.
        self._renewals = [
            _Call(_RENEW, subject, [self._lease_ms, *self._moment(), *ids[start : start + _BATCH]])
            for subject, ids in by_subject.items()
            for start in range(0, len(ids), _BATCH)
        ]
        self._work.set()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Send while entered. Waits briefly for the first answer, and at the end sends the queued ends."""
        self._work.set()
        working = asyncio.create_task(self._send_batches())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), _FIRST_CONNECT_S)
        try:
            yield
        finally:
            # Not cancelled: before Python 3.12 `wait_for`, which redis uses, may swallow a cancellation.
            self._stopping = True
            self._work.set()
            await asyncio.wait([working])
            # Also while Redis is away: use that was admitted meanwhile is counted nowhere else.
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_ENDS_S):
                    while self._endings:
                        await self._try_batch()
            if self._endings:
                fields = {"calls": len(self._endings)}
                logger.error("use was not counted in Redis", extra={"fields": fields})
            await self._redis.aclose()

    def _moment(self) -> Sequence[str | int]:
        if self._now is None:
            return "", ""
        now = self._now()
        return now.ms, int(now.unix_s * 1000)

    async def _send_batches(self) -> None:
        while not self._stopping:
            await self._work.wait()
            await self._try_batch()

    async def _try_batch(self) -> None:
        """Send a batch, after a probe if Redis was unreachable. Marks Redis unreachable if that fails."""
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._unreachable:
                    await _probe(self._redis)
                    self._mark_reachable()
                await self._send_batch()
        except Exception as error:  # noqa: BLE001  # waiting requests must fail on any error
            self._mark_unreachable(error)
            self._batch = max(1, self._batch // 2)
            await asyncio.sleep(_PROBE_EVERY_S)
        else:
            self._batch = min(_BATCH, 2 * self._batch)

    async def _send_batch(self) -> None:
        """Send a batch.

        Raises one of `_CONNECTION_ERRORS`: its reservations have then failed, and the rest is sent again.
        """
        pending = [self._pending.popleft() for _ in range(min(self._batch, len(self._pending)))]
        # A cancelled request has closed its reservation.
        pending = [reservation for reservation in pending if not reservation.answer.done()]
        renewals = self._renewals
        renewing = renewals[: self._batch]
        endings = list(islice(self._endings, self._batch))
        self._work.clear()
        try:
            # Ends first: the next request of a client may need the slot of its last one.
            answers = await self._run([*endings, *renewing, *(reservation.call for reservation in pending)])
        except BaseException:
            _fail(pending)
            raise
        # Newer renewals may have replaced these meanwhile; ends are only appended.
        del renewals[: len(renewing)]
        for _ in endings:
            self._endings.popleft()
        for reservation, answer in zip(pending, answers[len(endings) + len(renewing) :], strict=True):
            self._reported = False
            if not reservation.answer.done():
                reservation.answer.set_result(answer)
        if self._pending or self._renewals or self._endings:
            self._work.set()

    async def _run(self, calls: Sequence[_Call]) -> list[Any]:
        answers = await self._run_once(calls)
        unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            # A restarted Redis, or one whose scripts were flushed.
            for script in (_RESERVE, _END, _RENEW, _CHARGE):
                await self._redis.script_load(script.text)
            again = await self._run_once([calls[index] for index in unknown])
            for index, answer in zip(unknown, again, strict=True):
                answers[index] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _run_once(self, calls: Sequence[_Call]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(call.script.sha, len(_KEYS), *cast("list[str]", call.keys_and_arguments))
        return await pipeline.execute(raise_on_error=False)

    def _mark_unreachable(self, error: BaseException) -> None:
        if not self._reported:
            self._reported = True
            logger.warning("Redis cannot keep the limits: %s: %s", type(error).__name__, error)
        self._unreachable = True
        _fail(self._pending)
        self._pending.clear()
        self._work.set()

    def _mark_reachable(self) -> None:
        self._unreachable = False
        self._connected.set()


def _fail(pending: Iterable[_PendingReservation]) -> None:
    for reservation in pending:
        if not reservation.answer.done():
            reservation.answer.set_exception(LedgerUnreachableError())
