"""Extensions of an ASGI scope by which the transport lets an endpoint skip what would cost it most."""

from collections.abc import Callable
from typing import Final, Protocol

# Scope key of the `ClientConnection` that the request came over.
CONNECTION: Final = "serval.connection"
# Scope key of the `StreamedBody` of the answer.
ANSWER: Final = "serval.answer"


class ClientConnection(Protocol):
    """Connection of a request, as far as an endpoint may know it."""

    def call_when_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the client has gone."""

    def forget(self, callback: Callable[[], None]) -> None:
        """Do not call it any more."""


class StreamedBody(Protocol):
    """Body of an answer that has begun and whose length is not known.

    Beside ASGI's `send`, which has to be awaited: the engine's text is passed on where it is read.
    """

    def write_chunk(self, data: bytes) -> bool:
        """Send `data` now; False, with nothing sent, while the client has yet to take earlier data."""
