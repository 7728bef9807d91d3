"""Bound on attempts to sign in: of each client address, and of all together."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from serval.errors import RateLimitError
from serval.limits.bucket import Bucket

PER_ADDRESS: Final = 10
OF_ALL: Final = 60
_MOST_ADDRESSES: Final = 1024


class SignInAttempts:
    """Attempts of the last minute in this process."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._all = self._bucket(OF_ALL)
        # By address, from the least to the most recently seen.
        self._by_address: OrderedDict[str, Bucket] = OrderedDict()

    def count(self, address: str) -> None:
        """Count an attempt. Raises `RateLimitError` if there were too many."""
        mine = self._by_address.pop(address, None) or self._bucket(PER_ADDRESS)
        self._by_address[address] = mine
        if len(self._by_address) > _MOST_ADDRESSES:
            self._by_address.popitem(last=False)
        now = self._now_ms()
        for bucket in (mine, self._all):
            bucket.drain(now)
            if wait_ms := bucket.wait_ms(1):
                raise RateLimitError("Too many attempts to sign in. Wait, then try again.", wait_ms=wait_ms)
        mine.debit(1)
        self._all.debit(1)

    def _bucket(self, limit: int) -> Bucket:
        bucket = Bucket(self._now_ms())
        bucket.limit = limit
        return bucket

    def _now_ms(self) -> int:
        return int(self._monotonic() * 1000)
