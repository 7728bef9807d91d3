"""Client of one member of a fleet: an engine, or a pair of engines."""

from collections.abc import Callable
from typing import Protocol

from serval.engine.answer import OnFirst
from serval.engine.protocol import DeltaSink, EngineInfo, GenerateRequest, RankLoad
from serval.engine.readiness import StopReason


class Member(Protocol):
    """`SglangEngine` and `EnginePair` implement it; their methods say what they raise."""

    @property
    def is_failing(self) -> bool:
        """True while a circuit breaker is open."""
        ...

    @property
    def is_silent(self) -> bool:
        """True if the last question got no answer in time, so that `ready_status` returns an earlier one."""
        ...

    async def generate_once(
        self, request: GenerateRequest, sink: DeltaSink, *, on_first: OnFirst, fresh: bool
    ) -> None:
        """See `SglangEngine.generate_once`."""
        ...

    async def info(self) -> EngineInfo:
        """See `ManagedEngine.info`. Raises `SettingsError` if the member cannot be used as it was started."""
        ...

    async def tokens_of(self, text: str) -> list[int] | None:
        """See `SglangEngine.tokens_of`."""
        ...

    async def rank_loads(self) -> list[RankLoad]:
        """Fetch the load of each rank that prompts may be sent to. Raises an `ApiError`."""
        ...

    async def ready_status(self) -> int | None:
        """Return the status of `/ready`; None if it cannot be reached."""
        ...

    def note_lost(self) -> None:
        """Note that a request did not reach it."""
        ...

    def watch_stops(self, note: Callable[[StopReason], None]) -> None:
        """See `ManagedEngine.watch_stops`."""
        ...

    def watch_breaker(self, note: Callable[[bool], None]) -> None:
        """See `ManagedEngine.watch_breaker`."""
        ...

    def interrupt(self) -> None:
        """See `ManagedEngine.interrupt`."""
        ...
