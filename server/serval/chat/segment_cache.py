"""LRU cache of the token ids of text segments, bounded by bytes."""

import sys
import threading
from array import array
from collections import OrderedDict


class SegmentCache:
    """Maps the text of a segment to its token ids. Safe to use from several threads."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._bytes = 0
        # Ids, and the entry's size when it was added: a string grows when its UTF-8 form is cached in it.
        self._entries: OrderedDict[str, tuple[array[int], int]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes of all keys and ids."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, text: str) -> "array[int] | None":
        """Return the ids of `text`, or None."""
        with self._lock:
            entry = self._entries.get(text)
            if entry is None:
                return None
            self._entries.move_to_end(text)
            return entry[0]

    def put(self, text: str, ids: "array[int]") -> None:
        """Store `ids`, unless they need over a quarter of the capacity, which would evict too many others."""
        cost = _cost_bytes(text, ids)
        if cost * 4 > self._capacity_bytes:
            return
        with self._lock:
            if text in self._entries:
                return
            self._entries[text] = (ids, cost)
            self._bytes += cost
            while self._bytes > self._capacity_bytes:
                _, (_, old_cost) = self._entries.popitem(last=False)
                self._bytes -= old_cost


def _cost_bytes(text: str, ids: "array[int]") -> int:
    # 200 bytes for the entry in the ordered dictionary.
    return sys.getsizeof(text) + sys.getsizeof(ids) + 200
