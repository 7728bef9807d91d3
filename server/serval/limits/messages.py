"""What is asked of an authority over limits, and what it answers. Arrays, for the wire between processes."""

from typing import Literal

from msgspec import Struct

from serval.caller.limits import Limits

Dimension = Literal["requests", "tokens", "concurrency", "budget"]


class ReservationRequest(Struct, frozen=True, array_like=True):
    """One request that wants in. `id` names its reservation from then on; it is never used twice."""

    id: str
    # Who is counted: a key's public id, for instance.
    subject: str
    limits: Limits
    # The most it can use.
    tokens: int


class Decision(Struct, frozen=True, array_like=True):
    """`refused` None: everything is reserved. Else nothing is, and after `wait_ms` it would be let in, if
    nobody else came.

    What is left is meant after the reservation; a reset is the time until all of the limit is there again.
    Of a dimension without limit both are 0.
    """

    refused: Dimension | None = None
    wait_ms: int = 0
    requests_remaining: int = 0
    requests_reset_ms: int = 0
    tokens_remaining: int = 0
    tokens_reset_ms: int = 0
