"""How often drafts are accepted, by their position behind the last accepted token."""

from collections.abc import Sequence

# Weight of everything before the newest pass: half of the estimate comes from the last 23 passes.
_KEPT = 0.97
# Passes without a draft at a position after which what was seen there before counts no more.
_STALE_AFTER = 64


class Acceptance:
    """Running estimate of the share of drafts that are accepted, for positions 1 to `most`.

    Each position has its share among the drafts whose predecessors were accepted, so that a position that is
    not drafted now follows the positions before it. Before the first draft the share is 1.
    """

    def __init__(self, most: int) -> None:
        self._right = [0.0] * most
        self._tried = [0.0] * most
        self._idle = [0] * most

    def update(self, steps: int, accepted: Sequence[int]) -> None:
        """Add one pass of `steps` drafts a request; `accepted` holds the right ones of each request."""
        for position in range(len(self._tried)):
            if position >= steps:
                self._idle[position] += 1
                continue
            if self._idle[position] > _STALE_AFTER:
                self._right[position] = self._tried[position] = 0.0
            self._idle[position] = 0
            tried = sum(count >= position for count in accepted)
            right = sum(count > position for count in accepted)
            self._tried[position] = _KEPT * self._tried[position] + tried
            self._right[position] = _KEPT * self._right[position] + right

    def tokens_per_pass(self, steps: int) -> float:
        """Return the mean number of tokens that `steps` drafts give a request in a pass: 1 to `steps` + 1."""
        total = reached = 1.0
        for right, tried in zip(self._right[:steps], self._tried[:steps], strict=True):
            reached *= right / tried if tried else 1.0
            total += reached
        return total
