"""One limit per minute: a bucket that every debit fills and that drains evenly. Whole numbers only.

A debit is accepted if it fits, so any W seconds see at most `limit * (1 + W / 60)`: a full bucket and what
drains meanwhile. The level is counted in units of 1 / `UNIT`, of which `limit` drain each millisecond.

A refund returns at most the part of its own debit that is still in the bucket. Debits drain in the order they
came; returning more would let the same capacity be used twice.
"""

from typing import Final

UNIT: Final = 60_000


class Bucket:
    """A bucket. Times are milliseconds of a monotonic clock. `limit` may change between any two calls."""

    __slots__ = ("at", "gone", "level", "limit")

    def __init__(self, at: int) -> None:
        self.limit = 1
        self.level = 0
        # Total that ever left the bucket, drained or refunded.
        self.gone = 0
        self.at = at

    def drain(self, now: int) -> None:
        """Drain what is due up to `now`."""
        if self.level:
            drained = self.limit * (now - self.at)
            drained = min(drained, self.level)
            self.level -= drained
            self.gone += drained
        self.at = now

    def wait_ms(self, cost: int) -> int:
        """Milliseconds until a debit of `cost` fits; 0: now."""
        over = self.level + (cost - self.limit) * UNIT
        return -(-over // self.limit) if over > 0 else 0

    def debit(self, cost: int) -> int:
        """Debit `cost`; return its mark, the value of `gone` once this debit has drained."""
        self.level += cost * UNIT
        return self.gone + self.level

    def correct(self, debited: int, used: int, mark: int) -> None:
        """Replace a debit, identified by the mark of `debit`, by the real use."""
        if used > debited:
            self.level += (used - debited) * UNIT
            return
        # Refunds of later debits increase `gone` too, so this may be too low but never too high.
        still_there = min(debited * UNIT, max(0, mark - self.gone))
        refund = min((debited - used) * UNIT, still_there, self.level)
        self.level -= refund
        self.gone += refund

    def remaining(self) -> int:
        """The largest debit that fits now."""
        free = self.limit * UNIT - self.level
        return free // UNIT if free > 0 else 0

    def reset_ms(self) -> int:
        """Milliseconds until the bucket is empty."""
        return -(-self.level // self.limit)
