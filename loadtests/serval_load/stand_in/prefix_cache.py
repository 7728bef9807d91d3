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

    def chain(self, tokens: Sequence[int], *, salt: str = "") -> list[int]:
        """Hashes of the whole blocks of `tokens`. Chains of different salts have none in common."""
        chain, so_far = [], hash(salt)
        size = self._block_tokens
        for start in range(0, len(tokens) - size + 1, size):
            so_far = hash((so_far, tuple(tokens[start : start + size])))
            chain.append(so_far)
        return chain

    def match(self, chain: Sequence[int], *, use: bool = True) -> int:
        """Number of leading tokens that are cached.

        `use`: they count as used now, for eviction.
        """
        count = 0
        for block in chain:
            if block not in self._blocks:
                break
            if use:
                self._blocks.move_to_end(block)
            count += self._block_tokens
        return count

    def insert(self, chain: Sequence[int]) -> None:
        """Add the blocks of a chain."""
        # The end of a chain is useless without its start, so the start must be the more recent.
        for block in reversed(chain):
            self._blocks[block] = None
            self._blocks.move_to_end(block)

    def evict(self, tokens: int) -> None:
        """Remove the oldest blocks until at most `tokens` tokens are cached."""
        while self._blocks and self.tokens > max(tokens, 0):
            self._blocks.popitem(last=False)
