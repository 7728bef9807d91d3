"""A run of conversations: tokens that the engines found and computed, first tokens, cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from serval_load.fleet.clients import Asked, Conversation, PeerOf, first_tokens, hold
from serval_load.fleet.stack import Engine, loads
from serval_load.programs import Program

COLUMNS = (
    "requests", "not complete", "prompt tokens", "found", "first token p50, s", "p99, s", "busiest / mean",
    "CPU a request, ms",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Requests, the prompt tokens that each engine computed for them, and the gateways' CPU seconds."""

    asked: Sequence[Asked]
    computed: Sequence[int]
    cpu_s: float

    @property
    def prompts(self) -> int:
        """Prompt tokens of all answers."""
        return sum(one.answer.prompt_tokens for one in self.asked)

    @property
    def found(self) -> float:
        """Share of the prompt tokens that were in the caches."""
        return 1 - sum(self.computed) / max(self.prompts, 1)

    @property
    def busiest(self) -> float:
        """Computed tokens of the busiest engine, to the mean."""
        return max(self.computed) * len(self.computed) / max(sum(self.computed), 1)

    @property
    def incomplete(self) -> int:
        """Requests without a complete answer."""
        return sum(not one.answer.complete for one in self.asked)

    def cells(self) -> list[object]:
        """Cells of `COLUMNS`."""
        p50, p99 = (f"{first_tokens(self.asked, percent):.2f}" for percent in (50, 99))
        cpu_ms = 1e3 * self.cpu_s / max(len(self.asked), 1)
        counts = [len(self.asked), self.incomplete, self.prompts]
        return [*counts, f"{self.found:.1%}", p50, p99, f"{self.busiest:.2f}", f"{cpu_ms:.1f}"]


async def measure(
    conversations: Sequence[Conversation],
    peer_of: PeerOf,
    *,
    engines: Sequence[Engine],
    gateways: Sequence[Program],
) -> Measured:
    """Hold the conversations, and compare the counters of the engines before and after."""
    before, cpu_s = await loads(engines), sum(gateway.cpu_s() for gateway in gateways)
    asked = await hold(conversations, peer_of)
    after = await loads(engines)
    computed = [now.computed - then.computed for now, then in zip(after, before, strict=True)]
    return Measured(asked, computed, sum(gateway.cpu_s() for gateway in gateways) - cpu_s)
