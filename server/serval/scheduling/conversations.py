"""Admission of whole conversations: a gate before the slots that opens for those in the working set.

Requests of conversations in the set pass at once. The others wait in a fair queue of their own, for no longer
than a request may wait at all.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, Protocol

from serval.engine.placement import PlacedPrompt, PromptKeys
from serval.engine.protocol import GenerateRequest
from serval.scheduling.fair_queue import Ticket
from serval.scheduling.queue_time import timed_as_queue
from serval.scheduling.seats import PlaceLimit, Seat, Turn
from serval.scheduling.slots import QueueMeter, WaitingRoom
from serval.scheduling.working_set import SetObserver, Waiting, WorkingSet, take_next
from serval.telemetry.record import RequestRecord

# How often the queue is looked at: agents become silent, requests late, and places others.
LOOK_S: Final = 0.25
# Assumed length of an answer; it becomes part of the next prompt.
_USUAL_ANSWER_TOKENS: Final = 512
# End of a prompt that tells two of one conversation apart.
_TAIL_TOKENS: Final = 32


class GateObserver(SetObserver, Protocol):
    """Observer of the gate."""

    def conversations_waiting(self, number: int) -> None:
        """Note how many requests wait for room in the set."""
        ...


@dataclass(frozen=True)
class Admitted:
    """An admitted request: its conversation's seat, and the seconds that it has waited."""

    seat: Seat
    waited_s: float = 0.0


class ConversationGate(WaitingRoom[Seat]):
    """See the module. It is the `WaitingRoom` of the slots behind it, too: all requests pass here first."""

    def __init__(
        self,
        behind: WaitingRoom[Any],
        limits: Callable[[], Mapping[str, PlaceLimit]],
        *,
        queue_limit: int,
        timeout_s: float,
        meter: QueueMeter | None = None,
        observer: GateObserver | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`behind` are the slots; `limits` returns the limit of each place.

        The others are those of `WorkingSet` and `WaitingRoom`.
        """
        super().__init__(
            queue_limit=queue_limit,
            timeout_s=timeout_s,
            meter=meter,
            wanted="room for its conversation in the engine's cache",
            retry_after_s=lambda: ceil(self.set.estimate_s(len(self._queue))),
            now=now,
        )
        self.set = WorkingSet(bound_s=timeout_s, observer=observer)
        self._behind = behind
        self._limits = limits
        self._observer = observer
        self._turns: dict[Ticket, Waiting] = {}
        self._in_use = 0
        self._looking: asyncio.TimerHandle | None = None

    @property
    def in_use(self) -> int:
        """Number of requests that were admitted and have not ended."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """Number of requests that wait here or for a slot."""
        return len(self._queue) + self._behind.waiting

    @asynccontextmanager
    async def admitted(
        self, turn: Turn, wanted: str, request: GenerateRequest, record: RequestRecord
    ) -> AsyncIterator[Admitted]:
        """Wait until the turn may run, if possible at the place `wanted`, and keep its room until left.

        Raises `EngineOverloadedError` as `Slots.acquire` does, and `ShuttingDownError`.
        """
        self._check_running()
        one = self._enter_at_once(turn, wanted)
        if one is None:
            waiting = self._enter(
                turn, wanted, Ticket(turn.owner, request.priority, turn.tokens, self._now())
            )
            one = await timed_as_queue(waiting, request, record)
        try:
            yield one
        finally:
            self._give_back(one.seat)

    def _enter_at_once(self, turn: Turn, wanted: str) -> Admitted | None:
        if self._queue and not self.set.is_in(turn):
            return None
        self.set.resize(self._limits())
        seat = self.set.enter(turn, wanted, self._now())
        if seat is None:
            return None
        self._in_use += 1
        return Admitted(seat)

    async def _enter(self, turn: Turn, wanted: str, ticket: Ticket) -> Admitted:
        self._turns[ticket] = Waiting(turn, wanted)
        # There may be room already, for which others in the queue are too large.
        soon = asyncio.get_running_loop().call_soon(self._look)
        try:
            seat = await self._wait(ticket)
            return Admitted(seat, self._now() - ticket.arrived)
        finally:
            soon.cancel()
            del self._turns[ticket]
            self.set.withdrawn(turn)
            self._note_waiting()

    def _look(self) -> None:
        """Admit all that may run, and look again in a while if some have to wait."""
        self._admit()
        self._note_waiting()
        if self._queue and self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        self._look()

    def _admit(self) -> None:
        if not self._queue:
            return
        self.set.resize(self._limits())
        while self._queue:
            taken = take_next(self._queue, self._turns, self.set, self._now())
            if taken is None:
                return
            ticket, seat = taken
            granted = self._granted[ticket]
            if granted.done():
                # It was just cancelled, and had not left the queue yet.
                self.set.ended(seat, self._now())
            else:
                self._in_use += 1
                granted.set_result(seat)

    def _give_back(self, grant: Seat) -> None:
        self._in_use -= 1
        self.set.ended(grant, self._now())
        self._admit()
        self._note_idle()

    def _note_waiting(self) -> None:
        if self._observer is not None:
            self._observer.conversations_waiting(len(self._queue))

    async def stop(self, *, grace_s: float) -> bool:
        """See `WaitingRoom.stop`. Requests that wait for a slot are refused at the end, too."""
        in_time = await super().stop(grace_s=grace_s)
        if not in_time:
            await self._behind.stop(grace_s=0)
        return in_time


def turn_of(request: GenerateRequest, keys: PromptKeys | PlacedPrompt) -> Turn:
    """Return the request as the working set sees it."""
    ids = request.input_ids
    longest = request.sampling.get("max_new_tokens")
    answer = min(longest, _USUAL_ANSWER_TOKENS) if isinstance(longest, int) else _USUAL_ANSWER_TOKENS
    return Turn(
        owner=request.tenant,
        conversation=keys.conversation,
        shared_key=keys.shared_key,
        shared=keys.shared,
        tokens=len(ids) + answer,
        continues=keys.earlier > 0,
        tail=hash((len(ids), tuple(ids[-_TAIL_TOKENS:]))),
        interactive=request.priority == "interactive",
    )
