"""Model dimensions that a measurement depends on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Dimensions of a model as given in its config.json."""

    vocab: int
    ngram_base: int  # m: table i has m + 2i + 1 rows
    order: int  # n
    splits: int
    hidden: int
    routed_experts: int
    identity_experts: int
    top_k: int

    @property
    def tables(self) -> int:
        return (self.order - 1) * self.splits

    @property
    def width(self) -> int:
        """Columns of one table."""
        return self.hidden // self.tables

    @property
    def rows(self) -> int:
        """Rows of all tables together."""
        return sum(self.ngram_base + 2 * table + 1 for table in range(self.tables))

    @property
    def experts(self) -> int:
        return self.routed_experts + self.identity_experts


LITE = Sizes(
    vocab=131072,
    ngram_base=78 * 131072,
    order=4,
    splits=4,
    hidden=3072,
    routed_experts=256,
    identity_experts=128,
    top_k=12,
)
