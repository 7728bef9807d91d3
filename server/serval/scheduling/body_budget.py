"""Memory for the bodies of requests that are being read or wait to be worked on."""

from collections import Counter
from typing import Final, Self

from serval.errors import EngineOverloadedError, RateLimitError

# The first bytes of each body are free, so that ordinary requests are read whatever else there is.
FREE_BYTES: Final = 1 << 16
_RETRY_AFTER_S: Final = 5


class BodyBudget:
    """At most `limit_bytes` of bodies are held at a time, and half of it for one key."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: Counter[str] = Counter()

    @property
    def held_bytes(self) -> int:
        """Bytes held, without the free ones."""
        return self._held.total()

    def body(self, key: str) -> "HeldBody":
        """Return a body of a request of `key`, which is held until the end of a `with` block."""
        return HeldBody(self, key)

    def take(self, key: str, size: int) -> None:
        """Count `size` more bytes. Raises `RateLimitError` or `EngineOverloadedError`."""
        if self._held[key] + size > self._limit_bytes // 2:
            raise RateLimitError(
                "The large requests that this key has sent already fill the memory that one key may have,"
                f" {self._limit_bytes // 2} bytes. Send fewer at once.",
                wait_ms=_RETRY_AFTER_S * 1000,
            )
        if self.held_bytes + size > self._limit_bytes:
            raise EngineOverloadedError(
                "Large requests fill the memory that this server has for them. Try again later, or send less"
                " text.",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._held[key] += size

    def give(self, key: str, size: int) -> None:
        """Give `size` bytes back."""
        self._held[key] -= size
        if not self._held[key]:
            del self._held[key]


class HeldBody:
    """A body that is being read."""

    def __init__(self, budget: BodyBudget, key: str) -> None:
        self._budget = budget
        self._key = key
        self.size = 0
        # Bytes that the budget counts: all beyond the free ones.
        self.counted_bytes = 0

    def add(self, size: int) -> None:
        """Count `size` more bytes. Raises what `BodyBudget.take` raises."""
        self.size += size
        more = max(0, self.size - FREE_BYTES) - self.counted_bytes
        if more:
            self._budget.take(self._key, more)
            self.counted_bytes += more

    def shrink_to(self, size: int) -> None:
        """Note that only `size` bytes are still held: the rest, such as images, was not decoded."""
        if size >= self.size:
            return
        self.size = size
        spare = self.counted_bytes - max(0, size - FREE_BYTES)
        if spare > 0:
            self._budget.give(self._key, spare)
            self.counted_bytes -= spare

    def give_back(self) -> None:
        """Note that the body, and what was made of it, is not held any more."""
        if self.counted_bytes:
            self._budget.give(self._key, self.counted_bytes)
            self.counted_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
