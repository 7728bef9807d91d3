"""Half again as much work as the engines can do: as much is found in the caches, and the rest waits."""

from serval_load.fleet.agents import LAST, agents
from serval_load.fleet.clients import any_gateway, refused
from serval_load.fleet.finding import Finding
from serval_load.fleet.measured import COLUMNS, measure
from serval_load.fleet.stack import Fleet

OVERLOAD = 1.5


async def compare_loads(fleet: Fleet, *, prefill_per_s: float, seconds: float, seed: int) -> Finding:
    """Let agents come at half and at one and a half of the rate that four engines' prefill allows."""
    finding = Finding(("load", *COLUMNS, "refused"))
    # An agent's tokens are all computed once, if they are found afterwards.
    capacity = len(fleet.engines) * prefill_per_s / LAST
    shares = []
    for number, load in enumerate((0.5, OVERLOAD)):
        conversations = agents(per_s=load * capacity, seconds=seconds, seed=seed, texts=number)
        run = await measure(conversations, any_gateway(fleet), engines=fleet.engines, gateways=fleet.gateways)
        turned_away = refused(run.asked)
        finding.rows.append([f"{load:g} x capacity", *run.cells(), len(turned_away)])
        lost = run.incomplete - len(turned_away)
        finding.expect(not lost, f"at {load:g} x capacity {lost} requests broke or failed")
        shares.append(run.found)
    points = 100 * (shares[0] - shares[1])
    finding.expect(points <= 10, f"in the overload {points:.1f} points less were found")
    return finding
