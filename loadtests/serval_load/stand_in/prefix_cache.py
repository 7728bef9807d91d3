"""Prefix cache of whole blocks of tokens with least-recently-used eviction."""

from collections import Counter, OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Set of computed prefixes, kept as chains of block hashes without values."""

    def __init__(self, *, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._blocks: OrderedDict[int, None] = OrderedDict()
        # Number of running requests that hold each block; held blocks are not evicted.
        self._held: Counter[int] = Counter()

    @property
    def tokens(self) -> int:
        """Number of cached tokens."""
        return len(self._blocks) * self._block_tokens

    @property
    def held_tokens(self) -> int:
        """Number of tokens in blocks that running requests hold, each counted once."""
        return len(self._held) * self._block_tokens

    def hold(self, tokens: Sequence[int]) -> int:
        """Keep the whole blocks of a running request's `tokens`; return how many tokens are in them."""
        chain = self._chain(tokens)
        self._held.update(chain)
        return len(chain) * self._block_tokens

    def release(self, tokens: Sequence[int]) -> None:
        """Undo one `hold` of the same tokens."""
        self._held -= Counter(self._chain(tokens))

    def match_held(self, tokens: Sequence[int]) -> int:
        """Number of leading tokens in blocks that running requests hold."""
        chain = self._chain(tokens[:-1])
        held = next((place for place, block in enumerate(chain) if block not in self._held), len(chain))
        return held * self._block_tokens

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
        """Remove the oldest blocks that nothing holds until at most `tokens` tokens are cached."""
        for _ in range(len(self._blocks)):
            if self.tokens <= max(tokens, 0):
                return
            block, _ = self._blocks.popitem(last=False)
            if block in self._held:
                self._blocks[block] = None
