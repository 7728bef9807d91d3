"""Requests for a reservation and decisions on them. Encoded as arrays between processes."""

from typing import Literal

from msgspec import Struct

from serval.caller.limits import Limits

# `budget`: used up for its day, week or month. `budget_reserved`: requests that still run have reserved what
# is left of it.
Dimension = Literal["requests", "tokens", "concurrency", "budget", "budget_reserved"]


class ReservationRequest(Struct, frozen=True, array_like=True):
    """A request for a reservation. `id` is unique and names the reservation from then on.

    It is for `requests` of the engine, which use up to `tokens` in all and cost up to `cost`. If a budget has
    no room for all, up to `optional_tokens` of them are left out, each of which costs `token_cost`.
    """

    id: str
    # The account to count under, such as a key's public id.
    subject: str
    limits: Limits
    tokens: int = 0
    optional_tokens: int = 0
    requests: int = 1
    cost: int = 0
    token_cost: int = 0


class Decision(Struct, frozen=True, array_like=True):
    """The decision on a request. If `refused` is None everything is reserved, otherwise nothing.

    A refused request would be admitted after `wait_ms` if no other came; while it waits for running requests,
    whose end is unknown, that is when to try again. The remaining amounts are those after the reservation; a
    reset is the time until the whole limit is available again. For a dimension without limit both are 0,
    those of the day None: a budget is not counted everywhere.

    `budget` is the index in the request's `limits.counted` of the budget that refused it, `soft` are those of
    budgets whose soft limit was reached before.
    """

    refused: Dimension | None = None
    wait_ms: int = 0
    requests_remaining: int = 0
    requests_reset_ms: int = 0
    tokens_remaining: int = 0
    tokens_reset_ms: int = 0
    day_remaining: int | None = None
    day_reset_ms: int | None = None
    budget: int | None = None
    soft: tuple[int, ...] = ()
