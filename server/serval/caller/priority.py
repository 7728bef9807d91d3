"""Priority classes: the class of a key, and the class that a request asks for."""

from collections.abc import Mapping
from typing import Final, Literal

from serval.caller.identity import BULK, INTERACTIVE, Identity
from serval.errors import InvalidRequestError

Priority = Literal["interactive", "default", "bulk"]

# The most urgent first.
PRIORITIES: Final[tuple[Priority, ...]] = ("interactive", "default", "bulk")
HEADER: Final = b"x-serval-priority"
# OpenAI's service tier of each class.
_TIERS: Final[Mapping[Priority, str]] = {"interactive": "priority", "default": "default", "bulk": "flex"}


def priority_of(identity: Identity, requested: str | None, service_tier: str | None = None) -> Priority:
    """The class of a request: the lowest of its key's, its header's (`requested`) and its service tier's.

    `service_tier` is OpenAI's field; `auto` and `scale` ask for nothing.
    Raises `InvalidRequestError` for a header that names no class.
    """
    own = key_priority(identity)
    if requested is None and service_tier is None:
        return own
    classes = [own] if requested is None else [own, _named(requested)]
    classes += [priority for priority, tier in _TIERS.items() if tier == service_tier]
    return max(classes, key=PRIORITIES.index)


def tier_of(priority: Priority) -> str:
    """The service tier of a class, as named in answers."""
    return _TIERS[priority]


def key_priority(identity: Identity) -> Priority:
    """The class of a key: the default, and the upper bound, of its requests' classes."""
    if INTERACTIVE in identity.scopes:
        return "interactive"
    return "bulk" if BULK in identity.scopes else "default"


def _named(header: str) -> Priority:
    for priority in PRIORITIES:
        if header == priority:
            return priority
    name = HEADER.decode()
    raise InvalidRequestError(
        f"The header {name} is {header[:50]!r}; it may be one of {', '.join(PRIORITIES)}.", param=name
    )
