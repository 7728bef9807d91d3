"""Counting the tokens of an answer's reasoning.

The engine counts them only if it parses reasoning itself, which it does not for the gateway.
"""

from collections.abc import Sequence

from serval.engine.protocol import GenerationDelta
from serval.tools.events import Event, ReasoningDelta


class ReasoningCount:
    """Counts tokens up to the one that closes the reasoning; `add` every delta with its events."""

    def __init__(self, *, is_open: bool, close: int | None) -> None:
        """`is_open`: the prompt ends where reasoning begins. `close`: id of the closing marker, if it is one
        token."""
        self.tokens = 0
        self._is_open = is_open
        self._close = close
        self._seen = 0
        self._is_done = False

    def add(self, delta: GenerationDelta, events: Sequence[Event]) -> None:
        """Count the delta, whose text gave these events."""
        if self._is_done:
            return
        self._is_open = self._is_open or any(isinstance(event, ReasoningDelta) for event in events)
        if self._is_open and delta.token_ids and self._close in delta.token_ids:
            self.tokens = self._seen + delta.token_ids.index(self._close)
            self._is_done = True
        elif any(not isinstance(event, ReasoningDelta) for event in events):
            # Text or a call: what closed the reasoning was not a token of its own, or there was none.
            self._is_done = True
        elif self._is_open:
            self.tokens = delta.completion_tokens
        self._seen = delta.completion_tokens
