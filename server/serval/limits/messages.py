"""Requests for a reservation and decisions on them. Encoded as arrays between processes."""

from typing import Literal

from msgspec import Struct

from serval.caller.limits import Limits

Dimension = Literal["requests", "tokens", "concurrency", "budget"]


class ReservationRequest(Struct, frozen=True, array_like=True):
    """A request for a reservation. `id` is unique and names the reservation from then on."""

    id: str
    # The account to count under, such as a key's public id.
    subject: str
    limits: Limits
    # Upper bound of the request's use.
    tokens: int


class Decision(Struct, frozen=True, array_like=True):
    """The decision on a request. If `refused` is None everything is reserved, otherwise nothing.

    A refused request would be admitted after `wait_ms` if no other came. The remaining amounts are those
    after the reservation; a reset is the time until the whole limit is available again. For a dimension
    without limit both are 0.
    """

    refused: Dimension | None = None
    wait_ms: int = 0
    requests_remaining: int = 0
    requests_reset_ms: int = 0
    tokens_remaining: int = 0
    tokens_reset_ms: int = 0
