"""Several engines behind one gateway: which are there and ready, and sending a request to one of them.

An engine is looked at twice a second. One that refuses a connection, or breaks it before an answer begins, is
out at once and returns when it reports ready again; nothing is then known to be in its cache. Engines whose
model differs from the others' are named in the log and not used.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

from msgspec.structs import replace

from serval.engine.answer import NotAnsweredError
from serval.engine.client import RETRY_AFTER_S
from serval.engine.discovery import Discovery, FoundEngine
from serval.engine.model_check import ModelIdentity, difference, identity_of, most_common
from serval.engine.pair import connect_member
from serval.engine.place import FleetEngine, Outcome, Place, PlaceObserver, State, places_of, weigh
from serval.engine.place_call import PlaceCall
from serval.engine.placement import Choice, InFlight, PlacedPrompt, choose, placed_prompt
from serval.engine.protocol import (
    DeltaSink,
    EngineInfo,
    EngineLoadReport,
    GenerateRequest,
)
from serval.engine.readiness import StopReason
from serval.engine.weights import Override
from serval.errors import (
    EngineOverloadedError,
    EngineUnavailableError,
    ServalError,
    SettingsError,
)
from serval.settings import Settings

logger = logging.getLogger(__name__)

POLL_S: Final = 0.5
# Prompts of more tokens are hashed in a thread.
_INLINE_TOKENS: Final = 8192


class Fleet:
    """The engines that `discovery` finds. Use `connect.connect_fleet` to create one."""

    def __init__(self, settings: Settings, discovery: Discovery, tokens: Sequence[int] | None) -> None:
        """`tokens` are those of `model_check.PROBE` by the gateway's own tokenizer."""
        self._settings = settings
        self._discovery = discovery
        self._tokens = None if tokens is None else tuple(tokens)
        self._engines: dict[str, FleetEngine] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Engines that have not been looked at, of those found at first; then None.
        self._first_looks: set[str] | None = None
        self._looked = asyncio.Event()
        self._identity: ModelIdentity | None = None
        # Set at the start; engines that take less are not used.
        self._info: EngineInfo | None = None
        self._in_flight = InFlight()
        self._all_failing = False
        self._overrides: Mapping[str, Override] = {}
        self._note_breaker: Callable[[bool], None] = lambda _: None
        self._note_stop: Callable[[StopReason], None] = lambda _: None
        # Called when a place or its load has changed.
        self.on_change: Callable[[], None] = lambda: None
        self.observer: PlaceObserver | None = None

    # ---- the engines

    async def watch(self) -> None:
        """Look for engines, and at each of them, until cancelled."""
        try:
            while True:
                found = {engine.url: engine for engine in await self._discovery.look()}
                if self._first_looks is None:
                    self._first_looks = set(found)
                for url in self._engines.keys() - found.keys():
                    self._part_with(self._engines[url])
                for url, engine in found.items():
                    if url not in self._tasks:
                        self._tasks[url] = asyncio.create_task(self._watch_engine(engine))
                    elif url in self._engines:
                        self._take_over(self._engines[url], engine)
                self._weigh()
                self._note_first_look("")
                await asyncio.sleep(POLL_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _part_with(self, engine: FleetEngine) -> None:
        if not engine.leaving:
            engine.leaving = True
            logger.info("engine %s is no longer named; its requests may end", engine.found.name)
            self._tell_states(engine)
            engine.wake.set()
            self.on_change()

    def _take_over(self, engine: FleetEngine, found: FoundEngine) -> None:
        """Take over what the list says about an engine now.

        It is used again if it had not been named for a while, as after a slip in the file.
        """
        if engine.found != found:
            engine.found = found
            self._tell_states(engine)
        if engine.leaving:
            engine.leaving = False
            logger.info("engine %s is named again", engine.found.name)
            self._tell_states(engine)
            engine.wake.set()
            self.on_change()

    async def _watch_engine(self, found: FoundEngine) -> None:
        """Look at the engine until it is gone, and its requests have ended."""
        try:
            async with connect_member(self._settings, found.url) as client:
                engine = self._engines[found.url] = FleetEngine(found, client)
                client.watch_breaker(partial(self._breaker_changed, engine))
                client.watch_stops(partial(self._stopped, engine))
                self._weigh()
                self._tell_states(engine)
                while not engine.leaving or engine.running:
                    if not engine.leaving:
                        await self._look_at(engine)
                        self._note_first_look(found.url)
                    engine.wake.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(engine.wake.wait(), POLL_S)
                # From here on it is too late to take it back.
                del self._engines[found.url]
        finally:
            self._engines.pop(found.url, None)
            self._tasks.pop(found.url, None)

    def _note_first_look(self, url: str) -> None:
        """Once all engines have been looked at, agree on the model that most of them serve."""
        if self._looked.is_set() or self._first_looks is None:
            return
        self._first_looks.discard(url)
        if not self._first_looks:
            self._looked.set()
            self._identity = most_common(
                engine.identity
                for engine in self._engines.values()
                if engine.identity is not None and self._has_our_tokenizer(engine.identity)
            )
            for engine in self._engines.values():
                if engine.identity is not None:
                    self._admit(engine, engine.identity)

    async def _look_at(self, engine: FleetEngine) -> None:
        status = await engine.client.ready_status()
        if status != 200:
            self._not_ready(engine, status)
            return
        if engine.client.is_silent:
            # A stall so far: its caches are as they were, and asking for its load would wait as well.
            return
        try:
            if engine.identity is None:
                info = await engine.client.info()
                identity = await identity_of(engine.client, info)
                self._replace_places(engine, places_of(engine, await engine.client.rank_loads()))
                engine.info, engine.identity = info, identity
                if self._looked.is_set():
                    self._admit(engine, identity)
            elif engine.state != "mismatch":
                if engine.state == "failing" and not engine.client.is_failing:
                    self._set_state(engine, "ready")
                loads = {load.dp_rank: load for load in await engine.client.rank_loads()}
                for place in engine.places:
                    load = loads.get(place.rank or 0)
                    if load is not None:
                        place.heard(load)
                        if self.observer is not None and engine.state == "ready":
                            self.observer.place_waiting(place.name, place.view.waiting_s)
                self.on_change()
        except SettingsError as error:
            self._leave_unused(engine, str(error))
        except ServalError as error:
            logger.warning("engine %s cannot be asked: %s", engine.found.name, error)

    def _not_ready(self, engine: FleetEngine, status: int | None) -> None:
        was_ready = engine.identity is not None
        engine.identity = None
        if status is None:
            self._set_state(engine, "unknown")
        elif was_ready or engine.state == "draining":
            self._set_state(engine, "draining")
        else:
            self._set_state(engine, "loading")

    def _admit(self, engine: FleetEngine, identity: ModelIdentity) -> None:
        """Use the engine if its model is that of the others."""
        if self._identity is None and self._has_our_tokenizer(identity):
            self._identity = identity
        problem = self._problem(engine, identity)
        if problem is not None:
            self._leave_unused(engine, problem)
            return
        self._set_state(engine, "ready")

    def _leave_unused(self, engine: FleetEngine, problem: str) -> None:
        if engine.state != "mismatch":
            logger.error("engine %s is not used: %s", engine.found.name, problem)
        self._set_state(engine, "mismatch")

    def _has_our_tokenizer(self, identity: ModelIdentity) -> bool:
        return None in (self._tokens, identity.tokens) or self._tokens == identity.tokens

    def _problem(self, engine: FleetEngine, found: ModelIdentity) -> str | None:
        if not self._has_our_tokenizer(found):
            return "its tokenizer is not the gateway's (SERVAL_MODEL)"
        info, promised = engine.info, self._info
        if info is not None and promised is not None and info.max_prompt_tokens < promised.max_prompt_tokens:
            return (
                f"it takes prompts of {info.max_prompt_tokens} tokens, and this gateway promises"
                f" {promised.max_prompt_tokens}; restart the gateway to promise less"
            )
        return None if self._identity is None else difference(found, self._identity)

    def _stopped(self, engine: FleetEngine, reason: StopReason) -> None:
        self._note_stop(reason)
        if self.observer is not None:
            for name in self._names(engine):
                self.observer.place_stopped(name, reason)

    def _breaker_changed(self, engine: FleetEngine, is_open: bool) -> None:
        if is_open and engine.state == "ready":
            self._set_state(engine, "failing")
        elif not is_open and engine.state == "failing":
            self._set_state(engine, "ready")

    def _set_state(self, engine: FleetEngine, state: State) -> None:
        if state == engine.state:
            return
        logger.info("engine %s is %s", engine.found.name, state, extra={"fields": {"before": engine.state}})
        engine.state = state
        self._tell_states(engine)
        states = {other.state for other in self._engines.values()}
        all_failing = "failing" in states and "ready" not in states
        if all_failing != self._all_failing:
            self._all_failing = all_failing
            self._note_breaker(all_failing)
        self.on_change()

    def _replace_places(self, engine: FleetEngine, places: list[Place]) -> None:
        """Take places that have just become ready for those of before, which may have had other names."""
        before, engine.places = self._names(engine), places
        if self.observer is not None:
            for name in before - self._names(engine):
                self.observer.place_state(name, None)
        self._weigh()

    def _names(self, engine: FleetEngine) -> set[str]:
        return {place.name for place in engine.places} or {engine.found.name}

    def _tell_states(self, engine: FleetEngine) -> None:
        if self.observer is not None:
            for name in self._names(engine):
                self.observer.place_state(name, None if engine.leaving else engine.told_state)
                self.observer.place_described(
                    name, version=engine.found.options.version, weight=engine.relative_weight
                )

    def override(self, overrides: Mapping[str, Override]) -> None:
        """Put an administrator's orders in force, by the URLs of engines; others have none."""
        self._overrides = overrides
        self._weigh()

    def _weigh(self) -> None:
        for engine in weigh(self._engines.values(), self._overrides):
            self._tell_states(engine)
            self.on_change()

    # ---- requests

    def ready_places(self) -> list[Place]:
        """Return the places that take requests."""
        return [place for engine in self._engines.values() if engine.is_ready for place in engine.places]

    async def prompt_of(self, request: GenerateRequest) -> PlacedPrompt:
        """Return the request's prompt as `choose` needs it."""
        owner = "" if self._settings.share_prefix_cache else request.tenant or ""
        work = partial(placed_prompt, request.input_ids, owner=owner, parts=request.parts)
        return await asyncio.to_thread(work) if len(request.input_ids) > _INLINE_TOKENS else work()

    def choose(
        self,
        prompt: PlacedPrompt,
        *,
        without: Collection[FleetEngine] = (),
        only_idle: bool = False,
        prefer: str | None = None,
    ) -> tuple[Place, Choice]:
        """Choose a place for the prompt: that named `prefer` if it is there.

        `only_idle`: one that is idle, and of no less weight than the engines `without` which it is. Raises
        `EngineUnavailableError` if there is none.
        """
        least = max((engine.relative_weight for engine in without), default=0.0)
        places = {
            place.view: place
            for place in self.ready_places()
            if place.engine not in without
            and (not only_idle or (place.view.is_idle and place.view.weight >= least))
        }
        if not places:
            raise EngineUnavailableError(
                "No engine is ready at the moment. Try again shortly.", retry_after_s=RETRY_AFTER_S
            )
        preferred = next((place for place in places.values() if place.name == prefer), None)
        choice = choose(
            prompt,
            list(places) if preferred is None else [preferred.view],
            shared_homes=self._in_flight.homes(prompt, len(places)),
        )
        if preferred is not None:
            choice = replace(choice, reason="room")
        if self.observer is not None:
            self.observer.place_chosen(choice.reason)
        return places[choice.view], choice

    async def run(
        self, place: Place, request: GenerateRequest, prompt: PlacedPrompt, sink: DeltaSink, *, fresh: bool
    ) -> None:
        """Send the request to the place, once; `fresh`: over a new connection.

        Raises an `ApiError`, and `NotAnsweredError` if another place may be tried.
        """
        call = PlaceCall(place, prompt, self.observer)
        engine = place.engine
        if place.rank is not None:
            request = replace(request, rank=place.rank)
        engine.running += 1
        self._in_flight.started(prompt)
        outcome: Outcome = "cancelled"
        try:
            await engine.client.generate_once(request, sink, on_first=call.on_first, fresh=fresh)
            outcome = "finished"
        except NotAnsweredError as error:
            outcome = "unanswered"
            if not error.stale and not error.refused:
                self._eject(engine)
            # An engine that has ended closes idle connections first.
            engine.wake.set()
            raise
        except EngineOverloadedError as error:
            outcome = "failed"
            if call.answered:
                raise
            raise NotAnsweredError(error, sent=True, busy=True) from error
        except Exception:
            outcome = "failed"
            raise
        finally:
            engine.running -= 1
            self._in_flight.ended(prompt)
            if engine.leaving:
                engine.wake.set()
            call.end(outcome)

    def _eject(self, engine: FleetEngine) -> None:
        """Take the engine out until it reports ready again."""
        if engine.state == "ready":
            logger.warning("engine %s is out: it did not answer a request", engine.found.name)
            engine.client.note_lost()
            self._not_ready(engine, None)

    async def generate(self, request: GenerateRequest, sink: DeltaSink) -> None:
        """See `Engine.generate`. Without slots; `scheduling` uses `choose` and `run`."""
        prompt = await self.prompt_of(request)
        place, _ = self.choose(prompt)
        try:
            await self.run(place, request, prompt, sink, fresh=False)
        except NotAnsweredError as error:
            raise error.error from error

    # ---- management

    async def is_ready(self) -> bool:
        """See `Engine.is_ready`: True while a place takes requests."""
        await self._looked.wait()
        return bool(self.ready_places())

    async def info(self) -> EngineInfo:
        """See `ManagedEngine.info`: what every ready engine can do. It stays as it was the first time."""
        if self._info is None:
            ready = [engine for engine in self._engines.values() if engine.state == "ready"]
            known = [engine.info for engine in ready if engine.info is not None]
            if not known:
                raise EngineUnavailableError("No engine is ready.", retry_after_s=RETRY_AFTER_S)
            self._info = min(known, key=lambda info: info.max_prompt_tokens)
        return self._info

    async def loads(self) -> Sequence[EngineLoadReport]:
        """See `ManagedEngine.loads`: as they were last reported."""
        places = self.ready_places()
        if not places:
            raise EngineUnavailableError("No engine is ready.")
        return [EngineLoadReport(place.load.num_waiting_reqs, place.load.token_usage) for place in places]

    def states(self) -> dict[str, State]:
        """Return the state of each engine, by its name."""
        return {engine.found.name: engine.told_state for engine in self.engines()}

    def engines(self) -> list[FleetEngine]:
        """Return the engines that are named."""
        return [engine for engine in self._engines.values() if not engine.leaving]

    def watch_breaker(self, note: Callable[[bool], None]) -> None:
        """See `ManagedEngine.watch_breaker`: open while no engine is ready and one fails."""
        self._note_breaker = note

    def watch_stops(self, note: Callable[[StopReason], None]) -> None:
        """See `ManagedEngine.watch_stops`: of any engine."""
        self._note_stop = note

    def watch_places(self, observer: PlaceObserver) -> None:
        """Tell `observer` about the places, as they are now and whenever they change."""
        self.observer = observer
        for engine in self._engines.values():
            self._tell_states(engine)

    def interrupt(self) -> None:
        """See `ManagedEngine.interrupt`."""
        for engine in self._engines.values():
            engine.client.interrupt()
