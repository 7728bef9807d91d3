"""Cost of a request's limits in the gateway: reserve and settle in the process, headers included.

    python loadtests/limit_cost.py

Prints microseconds for a request with all four limits, for one with budgets of its key and of a team, for one
with none, and for one that is refused.
"""

import asyncio
import time

from serval.caller.budgets import Budget
from serval.caller.identity import Identity, Team
from serval.caller.limits import KeyLimits, Limits
from serval.errors import RateLimitError
from serval.limits.factory import open_gate
from serval.limits.gate import Gate
from serval.settings import Settings
from serval.telemetry.record import RequestRecord

ROUNDS = 20_000
REPEATS = 5
PLENTY = 10**9


async def main() -> None:
    """Print one line for each kind of request; the fastest of several repeats counts."""
    gate = open_gate(Settings(), None)
    record = RequestRecord(request_id="r", method="POST", route="/v1/chat/completions")
    budgets = (Budget("tokens", "week", PLENTY), Budget("cost", "month", PLENTY))
    team = Team("team:a", "a", Limits(budgets=budgets))
    kinds = {
        "all four limits": Identity(frozenset(), "a", limits=KeyLimits(PLENTY, PLENTY, PLENTY, PLENTY)),
        "two budgets of the key, two of its team": Identity(frozenset(), "b", budgets=budgets, team=team),
        "no limits": Identity(frozenset(), "c"),
        "refused": Identity(frozenset(), "d", limits=KeyLimits(requests_per_minute=1)),
    }
    for name, identity in kinds.items():
        best = min([await _round_us(gate, identity, record) for _ in range(REPEATS)])
        print(f"{name}: {best:.1f} us a request")


async def _round_us(gate: Gate, identity: Identity, record: RequestRecord) -> float:
    began = time.process_time()
    for number in range(ROUNDS):
        record.request_id = str(number)
        try:
            async with gate.reservation(identity, record, requests=1) as reservation:
                await reservation.reserve_tokens(prompt_tokens=800, completion_limit=100)
                reservation.settle(requests=1, tokens=850)
        except RateLimitError:
            pass
    return (time.process_time() - began) / ROUNDS * 1e6


if __name__ == "__main__":
    asyncio.run(main())
