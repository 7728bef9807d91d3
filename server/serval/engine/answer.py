"""Reading one answer of the engine: its bytes become deltas for a sink."""

from collections.abc import Callable

from serval.engine.protocol import DeltaSink, GenerationDelta
from serval.engine.sse import EventReader
from serval.errors import ApiError, EngineProtocolError

# Called with the first delta of an answer, None if the first bytes hold no whole one.
OnFirst = Callable[[GenerationDelta | None], None]


class AnswerReader:
    """Turns the body of one answer into deltas for `sink`."""

    __slots__ = ("_on_first", "_sink", "engine_done", "events", "sent")

    def __init__(self, events: EventReader, sink: DeltaSink, on_first: OnFirst) -> None:
        # None once it has been called.
        self._on_first: OnFirst | None = on_first
        self.events = events
        # The engine may have received the request.
        self.sent = False
        # The engine has ended the request: there is nothing left to abort.
        self.engine_done = False
        self._sink = sink

    def on_sent(self) -> None:
        """Note that the request was written."""
        self.sent = True

    def on_data(self, data: bytes) -> bool:
        """See `OnData`. Raises the error that the engine reports, and whatever the sink raises."""
        events = self.events
        delta = events.feed(data)
        if self._on_first is not None:
            self._on_first(delta)
            self._on_first = None
        wants_more = True
        if delta is not None:
            self.engine_done = events.finished
            wants_more = self._sink.send(delta)
        if events.error is not None:
            # The engine has ended a request whose failure it reports.
            self.engine_done = not isinstance(events.error, EngineProtocolError)
            raise events.error
        return wants_more


class NotAnsweredError(Exception):
    """The engine did not begin to answer a request, so another one may.

    `error` is for the client if there is no other. `sent`: the engine may have received the request. `stale`:
    it closed a connection that had been idle, as a working engine does too. `refused`: nothing was tried,
    because the engine fails at the moment. `busy`: it has no room.
    """

    def __init__(
        self,
        error: ApiError,
        *,
        sent: bool,
        stale: bool = False,
        refused: bool = False,
        busy: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.sent = sent
        self.stale = stale
        self.refused = refused
        self.busy = busy
