"""Client of one SGLang 0.5.23 engine over HTTP.

Answers are always streamed, even for clients that want them whole: a stall is noticed immediately, and there
is one path to test. For whole answers `stream_interval` keeps the number of events small.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
import msgspec

from serval.engine.answer import AnswerReader, NotAnsweredError, OnFirst
from serval.engine.breaker import CircuitBreaker
from serval.engine.connection import (
    IDLE_S,
    OK,
    BrokenAnswerError,
    Connection,
    ConnectionPool,
    NotReachedError,
    StalledError,
    peer_of,
)
from serval.engine.protocol import (
    DeltaSink,
    EngineInfo,
    EngineLoadReport,
    GenerateRequest,
    GenerationDelta,
    RankLoad,
)
from serval.engine.readiness import PATIENCE_S, Readiness, StopReason
from serval.engine.refusal import engine_error, error_message
from serval.engine.reports import Loads, ModelInfo, ModelList, Role, ServerInfo, Tokens, check_role
from serval.engine.request_body import cache_salt, generate_body, renamed
from serval.engine.sse import EventReader
from serval.errors import (
    ApiError,
    EngineProtocolError,
    EngineStreamBrokenError,
    EngineTimeoutError,
    EngineUnavailableError,
    SettingsError,
    ShuttingDownError,
)
from serval.settings import Settings

logger = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_AFTER_S = 2
_MAX_ERROR_BYTES = 1 << 20
# Tokens; longer than the context of any model.
_LONGEST_CONTEXT = 1 << 24
_CONTROL_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
# Seconds between aborts of a request that may not have arrived yet. SGLang itself ends a stream whose client
# has gone after two seconds.
_OVERTAKEN_S = (0.25, 0.75)
_READY_TIMEOUT = aiohttp.ClientTimeout(total=2.0)


def _unreachable() -> EngineUnavailableError:
    return EngineUnavailableError(
        "The engine cannot be reached at the moment. Try again shortly.", retry_after_s=RETRY_AFTER_S
    )


async def _all_of(answer: Connection) -> bytes:
    """Read the body of an error, up to a limit."""
    body = b""

    def on_data(data: bytes) -> bool:
        nonlocal body
        body += data
        return len(body) < _MAX_ERROR_BYTES

    await answer.read(on_data)
    return body


class SglangEngine:
    """The engine at `url`. Use `connect_engine` to create one."""

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        connections: ConnectionPool,
        settings: Settings,
        *,
        role: Role = "null",
    ) -> None:
        self._session = session
        self._role = role
        self._url = url.rstrip("/")
        self._stall_timeout_s = settings.engine_stall_timeout_s
        self._connections = connections
        self._share_cache = settings.share_prefix_cache
        pepper = settings.key_pepper
        # Clients cannot send a salt, so the key need not be secret, only the same in all gateways.
        self._salt_key = b"serval" if pepper is None else pepper.get_secret_value().encode()
        self.breaker = CircuitBreaker(failures=settings.breaker_failures, open_s=settings.breaker_open_s)
        self.readiness = Readiness(patience_s=PATIENCE_S)
        self._aborts: set[asyncio.Task[None]] = set()
        # Bound on answers without a limit of their own: the engine's, as soon as it has been asked for it.
        self._context_length = _LONGEST_CONTEXT

    async def generate(self, request: GenerateRequest, sink: DeltaSink) -> None:
        """See `Engine.generate`."""
        is_trial = self.breaker.enter()
        try:
            try:
                await self._exchange(request, sink, self._note_first)
            except NotReachedError:
                # No answer began. Retry under another id, in case the engine already has this one.
                await self._exchange(renamed(request), sink, self._note_first, fresh=True)
        except NotReachedError as error:
            raise self._not_reached(error) from error
        finally:
            if is_trial:
                self.breaker.abandon_trial()

    async def generate_once(
        self, request: GenerateRequest, sink: DeltaSink, *, on_first: OnFirst, fresh: bool
    ) -> None:
        """Do what `generate` does, but send the request once; `fresh`: over a new connection.

        `on_first` is called when the answer begins, which is after its headers: SGLang sends these while the
        request waits. Raises `NotAnsweredError` if it does not begin.
        """
        begun = False

        def note_first(delta: GenerationDelta | None) -> None:
            nonlocal begun
            begun = True
            self._note_first(delta)
            on_first(delta)

        try:
            is_trial = self.breaker.enter()
        except EngineUnavailableError as error:
            raise NotAnsweredError(error, sent=False, refused=True) from None
        try:
            await self._exchange(request, sink, note_first, fresh=fresh)
        except NotReachedError as error:
            if error.reused:
                raise NotAnsweredError(_unreachable(), sent=True, stale=True) from error
            raise NotAnsweredError(self._not_reached(error), sent=error.sent) from error
        except EngineStreamBrokenError as error:
            if begun:
                raise
            self.breaker.record_failure()
            raise NotAnsweredError(error, sent=True) from error
        finally:
            if is_trial:
                self.breaker.abandon_trial()

    async def _exchange(
        self, request: GenerateRequest, sink: DeltaSink, on_first: OnFirst, *, fresh: bool = False
    ) -> None:
        """Send the request and read its answer. Raises `NotReachedError` if that does not begin."""
        reader = AnswerReader(self._events_of(request), sink, on_first)
        answer = None
        try:
            answer = await self._connections.post(
                self._body(request), reader.on_data, fresh=fresh, on_sent=reader.on_sent
            )
            self._note_status(answer.status)
            if answer.status != OK:
                reader.engine_done = True
                message = error_message(await _all_of(answer))
                raise engine_error(answer.status, message, request_id=request.request_id)
            while await answer.read(reader.on_data):
                await sink.ready()
            if not reader.events.finished:
                raise EngineStreamBrokenError("The engine's answer ended before it was complete.")
        except (EngineUnavailableError, NotReachedError):
            reader.engine_done = True
            raise
        except EngineProtocolError:
            # Not even the end of such an answer is certain: what follows on the connection may be part of it.
            if answer is not None:
                answer.close()
            raise
        except (StalledError, BrokenAnswerError) as error:
            raise self._as_api_error(error) from error
        finally:
            if answer is not None:
                self._connections.release(answer)
            # The consumer is gone or the answer broke off, so the rest would be generated for nobody.
            if reader.sent and not reader.engine_done:
                self._abort_soon(request.request_id, begun=answer is not None)

    def _note_first(self, _: GenerationDelta | None) -> None:
        self.breaker.record_success()

    def _events_of(self, request: GenerateRequest) -> EventReader:
        asked = request.sampling.get("max_new_tokens")
        return EventReader(
            request.request_id,
            prompt_tokens=len(request.input_ids),
            max_tokens=asked if isinstance(asked, int) else self._context_length,
            prompt_logprobs=request.prompt_logprobs,
        )

    def _as_api_error(self, error: StalledError | BrokenAnswerError) -> ApiError:
        if isinstance(error, BrokenAnswerError):
            logger.warning("engine stream broke: %s", error)
            return EngineStreamBrokenError("The engine's answer ended before it was complete.")
        self.breaker.record_failure()
        return EngineTimeoutError(f"The engine sent nothing for {self._stall_timeout_s:g} s.")

    def _not_reached(self, error: NotReachedError) -> EngineUnavailableError:
        self.breaker.record_failure()
        self._log_unreachable(error)
        return _unreachable()

    def _note_status(self, status: int) -> None:
        # A 503 comes from an overloaded but working engine, and below 500 the request is at fault.
        if status < 500:
            self.breaker.record_success()
        elif status != 503:
            self.breaker.record_failure()

    def _body(self, request: GenerateRequest) -> bytes:
        if request.tenant is None or self._share_cache:
            return generate_body(request)
        return generate_body(request, salt=cache_salt(self._salt_key, request.tenant))

    def _log_unreachable(self, error: Exception) -> None:
        logger.warning("engine not reachable at %s: %s: %s", self._url, type(error).__name__, error)

    def _abort_soon(self, request_id: str, *, begun: bool) -> None:
        # In a separate task, as the caller is usually being cancelled.
        task = asyncio.create_task(self._abort(request_id, begun=begun))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _abort(self, request_id: str, *, begun: bool) -> None:
        """Abort a request; `begun`: the engine had begun to answer it."""
        await self._send_abort(request_id)
        # The abort has a connection of its own, and may have overtaken the request.
        for pause_s in () if begun else _OVERTAKEN_S:
            await asyncio.sleep(pause_s)
            await self._send_abort(request_id)

    async def _send_abort(self, request_id: str) -> None:
        try:
            async with self._session.post(
                f"{self._url}/abort_request", json={"rid": request_id}, timeout=_CONTROL_TIMEOUT
            ) as response:
                if response.status != 200:
                    logger.warning("engine refused to abort %s: HTTP %d", request_id, response.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            logger.warning("could not abort %s: %s: %s", request_id, type(error).__name__, error)

    async def info(self) -> EngineInfo:
        """See `ManagedEngine.info`. Raises `SettingsError` if it was not started as it is used here."""
        model = await self._get("/model_info", ModelInfo)
        check_role(self._url, model.disaggregation_mode, self._role)
        server = await self._get("/server_info", ServerInfo)
        models = await self._get("/v1/models", ModelList)
        if not server.incremental_streaming_output:
            raise SettingsError(
                f"the engine at {self._url} streams the whole text again with each token; start it with"
                " --incremental-streaming-output"
            )
        if not models.data or models.data[0].max_model_len is None:
            raise EngineProtocolError("The engine does not say how long its context is.")
        context_length = self._context_length = models.data[0].max_model_len
        return EngineInfo(
            model_path=model.model_path,
            context_length=context_length,
            # The engine refuses a prompt as long as its limit (managers/utils.py, validate_input_length).
            max_prompt_tokens=min(context_length, server.max_req_input_len) - 1,
            max_running_requests=sum(
                state.effective_max_running_requests_per_dp or 0 for state in server.internal_states
            )
            or None,
            architectures=tuple(model.architectures or ()),
            checkpoint=None if model.weight_version == "default" else model.weight_version,
            kv_tokens=server.max_total_num_tokens * max(1, len(server.internal_states)) or None,
        )

    async def tokens_of(self, text: str) -> list[int] | None:
        """Return the token ids of `text` by the engine's own tokenizer; None if it does not tell."""
        body = {"prompt": text, "add_special_tokens": False}
        try:
            async with self._session.post(
                f"{self._url}/tokenize", json=body, timeout=_CONTROL_TIMEOUT
            ) as response:
                if response.status != 200:
                    return None
                return msgspec.json.decode(await response.read(), type=Tokens).tokens
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError):
            return None

    async def loads(self) -> Sequence[EngineLoadReport]:
        """See `ManagedEngine.loads`. Ranks are added up, as nothing is known of which one a request meets.

        Asks for readiness as well: SGLang says for up to five seconds that it stops, and then is gone.
        """
        await self.ready_status()
        ranks = await self.rank_loads()
        waiting = sum(rank.num_waiting_reqs for rank in ranks)
        return [EngineLoadReport(waiting, kv_use=max((rank.token_usage for rank in ranks), default=0.0))]

    async def rank_loads(self) -> list[RankLoad]:
        """Fetch the load of each data-parallel rank. Raises an `ApiError`."""
        return (await self._get("/v1/loads?include=core", Loads)).loads

    @property
    def is_failing(self) -> bool:
        """True while the circuit breaker is open."""
        return self.breaker.is_open

    @property
    def is_silent(self) -> bool:
        """See `Member`."""
        return self.readiness.is_silent

    def note_lost(self) -> None:
        """See `Member`."""
        self.readiness.answered(None)

    def watch_breaker(self, note: Callable[[bool], None]) -> None:
        """See `ManagedEngine.watch_breaker`."""
        self.breaker.on_change = note

    def watch_stops(self, note: Callable[[StopReason], None]) -> None:
        """See `ManagedEngine.watch_stops`."""
        self.readiness.on_stop = note

    def interrupt(self) -> None:
        """See `ManagedEngine.interrupt`."""
        self._connections.interrupt(
            lambda: ShuttingDownError("The server was stopped before this answer was complete.")
        )

    async def is_ready(self) -> bool:
        """See `Engine.is_ready`. False while the circuit breaker is open."""
        return not self.breaker.is_open and await self.ready_status() == 200

    async def ready_status(self) -> int | None:
        """Return the status of `/ready`; None if the engine cannot be reached, or is silent for long."""
        asked_at = time.monotonic()
        try:
            async with self._session.get(f"{self._url}/ready", timeout=_READY_TIMEOUT) as response:
                self.readiness.answered(response.status)
        except TimeoutError:
            self.readiness.silent(asked_at)
        except (aiohttp.ClientError, OSError):
            self.readiness.answered(None)
        return self.readiness.status

    async def _get(self, path: str, shape: type[T]) -> T:
        try:
            async with self._session.get(f"{self._url}{path}", timeout=_CONTROL_TIMEOUT) as response:
                body = await response.read()
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._log_unreachable(error)
            raise _unreachable() from error
        if status != 200:
            raise EngineUnavailableError(f"The engine answered GET {path} with HTTP {status}.")
        try:
            return msgspec.json.decode(body, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EngineProtocolError(
                f"The engine's answer to GET {path} cannot be used: {error}."
            ) from error

    async def finish_aborts(self) -> None:
        """Wait for aborts in progress."""
        await asyncio.gather(*self._aborts, return_exceptions=True)


@asynccontextmanager
async def connect_engine(
    settings: Settings, url: str | None = None, *, role: Role = "null"
) -> AsyncIterator[SglangEngine]:
    """Create a client of the engine at `url`, by default that of the settings, in a running event loop.

    `role` is what the engine must have been started for. Nothing is sent before the client is used. Raises
    `SettingsError` for a URL that cannot be used.
    """
    url = settings.engine_url if url is None else url
    key = None if settings.engine_api_key is None else settings.engine_api_key.get_secret_value()
    peer = peer_of(
        url,
        api_key=key,
        connect_timeout_s=settings.engine_connect_timeout_s,
        stall_timeout_s=settings.engine_stall_timeout_s,
    )
    connections = ConnectionPool(peer, limit=settings.engine_max_connections)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    # aiohttp's own limit of 100 connections would queue aborts here.
    connector = aiohttp.TCPConnector(limit=settings.engine_max_connections, keepalive_timeout=IDLE_S)
    async with aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=False) as session:
        engine = SglangEngine(url, session, connections, settings, role=role)
        try:
            yield engine
        finally:
            await engine.finish_aborts()
            connections.close()
