"""Prefix cache of whole blocks of tokens with least-recently-used eviction."""

from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Set of computed prefixes, kept as chains of block hashes without values."""

    def __init__(self, *, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._blocks: OrderedDict[int, None] = OrderedDict()

    @property
    def tokens(self) -> int:
        """Number of cached tokens."""
        return len(self._blocks) * self._block_tokens

    def _chain(self, tokens: Sequence[int]) -> list[int]:
        chain, so_far = [], 0
        size = self._block_tokens
        for start in range(0, len(tokens) - size + 1, size):
            so_far = hash((so_far, tuple(tokens[start : start + size])))
            chain.append(so_far)
        return chain

    def match(self, tokens: Sequence[int], *, use: bool = True) -> int:
        """Number of leading tokens that are cached. The last token is always computed and never counted.

        `use`: they count as used now, for eviction.
        """
        count = 0
        for block in self._chain(tokens[:-1]):
            if block not in self._blocks:
                break
            if use:
                self._blocks.move_to_end(block)
            count += self._block_tokens
        return count

    def insert(self, tokens: Sequence[int]) -> None:
        """Add the whole blocks of `tokens`."""
        # The end of a chain is useless without its start, so the start must be the more recent.
        for block in reversed(self._chain(tokens)):
            self._blocks[block] = None
            self._blocks.move_to_end(block)

    def evict(self, tokens: int) -> None:
        """Remove the oldest blocks until at most `tokens` tokens are cached."""
        while self._blocks and self.tokens > max(tokens, 0):
            self._blocks.popitem(last=False)
