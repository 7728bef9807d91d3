"""Recent prompts of callers who ask why the prefix cache missed, to compare the next ones with."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

# Conversations of one caller, such as those of an agent and its subagents.
PROMPTS_OF_KEY: Final = 8


class PromptHistory:
    """The latest prompts of each key, as text: at most `capacity_bytes`, and a quarter of that for one key.

    Safe to use from several threads. A key's prompts are compared with that key's alone.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._bytes = 0
        # By key, both keys and prompts from the oldest to the latest.
        self._prompts: OrderedDict[str, list[str]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes of all prompts."""
        return self._bytes

    def most_similar(self, key: str, prompt: str) -> tuple[str, int] | None:
        """Return the key's prompt with the longest common beginning, and its length; None without prompts."""
        with self._lock:
            held = list(self._prompts.get(key, ()))
        compared = [(shared_length(prompt, one), one) for one in held]
        if not compared:
            return None
        length, one = max(compared)
        return one, length

    def add(self, key: str, prompt: str) -> None:
        """Hold the prompt, in place of those that it continues. One that is too long is not held."""
        with self._lock:
            held = self._prompts.pop(key, [])
            kept = [one for one in held if not prompt.startswith(one)][-(PROMPTS_OF_KEY - 1) :]
            if _size(prompt) * 4 <= self._capacity_bytes:
                kept.append(prompt)
            while sum(map(_size, kept)) * 4 > self._capacity_bytes:
                del kept[0]
            self._bytes += sum(map(_size, kept)) - sum(map(_size, held))
            if kept:
                self._prompts[key] = kept
            while self._bytes > self._capacity_bytes:
                _, oldest = self._prompts.popitem(last=False)
                self._bytes -= sum(map(_size, oldest))


def shared_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Return the number of characters or tokens that both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        # Only what is not known to be equal: each step compares half as much as the one before.
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _size(prompt: str) -> int:
    return sys.getsizeof(prompt)
