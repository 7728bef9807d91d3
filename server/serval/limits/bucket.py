"""One limit per minute: a bucket that every debit fills and that drains evenly. Whole numbers only.

A debit is let in if it fits, so any stretch of W seconds sees at most `limit * (1 + W / 60)`: a full bucket
and what drains meanwhile. The level is counted in `UNIT`ths, of which `limit` drain each millisecond.

A refund gives back what of its own debit is still in the bucket. Debits drain in the order they came, so what
drained first was older ones'; giving back more than that would let the same capacity be used twice.
"""

from typing import Final

UNIT: Final = 60_000


class Bucket:
    """Times are milliseconds of a clock that never goes back. `limit` may change between any two calls."""

    __slots__ = ("at", "gone", "level", "limit")

    def __init__(self, at: int) -> None:
        self.limit = 1
        self.level = 0
        # All that ever left the bucket, drained or given back.
        self.gone = 0
        self.at = at

    def drain(self, now: int) -> None:
        """Let time pass until `now`."""
        if self.level:
            drained = self.limit * (now - self.at)
            drained = min(drained, self.level)
            self.level -= drained
            self.gone += drained
        self.at = now

    def wait_ms(self, cost: int) -> int:
        """How long until a debit of `cost` fits; 0: now."""
        over = self.level + (cost - self.limit) * UNIT
        return -(-over // self.limit) if over > 0 else 0

    def debit(self, cost: int) -> int:
        """Take `cost`. The mark that is returned is where `gone` will be when this debit has left."""
        self.level += cost * UNIT
        return self.gone + self.level

    def correct(self, debited: int, used: int, mark: int) -> None:
        """Replace a debit, of which `debit` gave the mark, by what was used."""
        if used > debited:
            self.level += (used - debited) * UNIT
            return
        # Refunds of later debits make `gone` grow too, so this may be too low, and never too high.
        still_there = min(debited * UNIT, max(0, mark - self.gone))
        refund = min((debited - used) * UNIT, still_there, self.level)
        self.level -= refund
        self.gone += refund

    def remaining(self) -> int:
        """What would fit now."""
        free = self.limit * UNIT - self.level
        return free // UNIT if free > 0 else 0

    def reset_ms(self) -> int:
        """How long until it is empty."""
        return -(-self.level // self.limit)
