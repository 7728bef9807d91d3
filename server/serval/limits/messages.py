"""Requests for a reservation and decisions on them. Encoded as arrays between processes."""

from typing import Literal

from msgspec import Struct

from serval.caller.limits import Limits

# `budget`: used up for the day. `budget_reserved`: requests that still run have reserved what is left of it.
Dimension = Literal["requests", "tokens", "concurrency", "budget", "budget_reserved"]


class ReservationRequest(Struct, frozen=True, array_like=True):
    """A request for a reservation. `id` is unique and names the reservation from then on.

    It is for `requests` of the engine, which use up to `tokens` in all. If the day's budget has no room for
    all, up to `optional_tokens` of them are left out.
    """

    id: str
    # The account to count under, such as a key's public id.
    subject: str
    limits: Limits
    tokens: int = 0
    optional_tokens: int = 0
    requests: int = 1


class Decision(Struct, frozen=True, array_like=True):
    """The decision on a request. If `refused` is None everything is reserved, otherwise nothing.

    A refused request would be admitted after `wait_ms` if no other came; while it waits for running requests,
    whose end is unknown, that is when to try again. The remaining amounts are those after the reservation; a
    reset is the time until the whole limit is available again. For a dimension without limit both are 0,
    those of the day None: a budget is not counted everywhere.
    """

    refused: Dimension | None = None
    wait_ms: int = 0
    requests_remaining: int = 0
    requests_reset_ms: int = 0
    tokens_remaining: int = 0
    tokens_reset_ms: int = 0
    day_remaining: int | None = None
    day_reset_ms: int | None = None
