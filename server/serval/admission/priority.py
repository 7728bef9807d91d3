"""Priority classes: what a key may have, and what a request asks for."""

from typing import Final, Literal

from serval.auth.identity import BULK, INTERACTIVE, Identity
from serval.errors import InvalidRequestError

Priority = Literal["interactive", "default", "bulk"]

# The most urgent first.
PRIORITIES: Final[tuple[Priority, ...]] = ("interactive", "default", "bulk")
HEADER: Final = "x-serval-priority"


def priority_of(identity: Identity, asked: str | None) -> Priority:
    """The class of a request: what its header asks for, or else its key's; no better than its key's.

    Raises `InvalidRequestError` for a header that names no class.
    """
    best = key_priority(identity)
    return best if asked is None else max(best, _named(asked), key=PRIORITIES.index)


def key_priority(identity: Identity) -> Priority:
    """The class of a key's requests that ask for none, and the best that they may have."""
    if INTERACTIVE in identity.scopes:
        return "interactive"
    return "bulk" if BULK in identity.scopes else "default"


def _named(header: str) -> Priority:
    for priority in PRIORITIES:
        if header == priority:
            return priority
    raise InvalidRequestError(
        f"The header {HEADER} is {header[:50]!r}; it may be one of {', '.join(PRIORITIES)}.", param=HEADER
    )
