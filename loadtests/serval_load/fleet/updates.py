"""Engines that end under load: killed, or drained one after the other for an update."""

import asyncio
from collections.abc import Callable

from serval_load.fleet.clients import Asked, broken, failed, steady_load
from serval_load.fleet.finding import Finding
from serval_load.fleet.stack import Engine, Fleet

OUT_S, BACK_S = 1.0, 2.0
_STATE_TIMEOUT_S = 60.0


async def _reaches(fleet: Fleet, engine: Engine, holds: Callable[[str], bool]) -> float:
    """Wait until every gateway sees the engine in such a state; return the seconds. Raises `TimeoutError`."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.timeout(_STATE_TIMEOUT_S):
        while True:
            if all(holds(state) for state in await fleet.state_of(engine)):
                return loop.time() - started
            await asyncio.sleep(0.02)


async def kill_under_load(
    fleet: Fleet, *, per_s: float, seconds: float, seed: int, bounds_s: tuple[float, float] = (OUT_S, BACK_S)
) -> Finding:
    """Kill an engine under load, start it again after a third of the time, and see it used again.

    `bounds_s` are for the gateways to leave it out, and to use it again when it is ready.
    """
    victim = fleet.engines[0]
    async with steady_load(fleet.peer, per_s=per_s, seed=seed) as asked:
        await asyncio.sleep(seconds / 3)
        await victim.kill()
        out_s = await _reaches(fleet, victim, lambda state: state != "ready")
        await asyncio.sleep(seconds / 3)
        await victim.start()
        back_s = await _reaches(fleet, victim, lambda state: state == "ready")
        await asyncio.sleep(seconds / 3)
    finding = Finding(
        ("requests", "answered", "never answered", "broken streams", "of these without an error event",
         "out after, s", "back after, s")
    )  # fmt: skip
    lost, cut = failed(asked), broken(asked)
    silent = [one for one in cut if not _told_by_event(one)]
    counts = [len(asked), len(asked) - len(lost) - len(cut), len(lost), len(cut), len(silent)]
    finding.rows.append([*counts, f"{out_s:.2f}", f"{back_s:.2f}"])
    finding.expect(
        not lost, f"{len(lost)} requests were not answered: {lost[0].answer.error if lost else ''}"
    )
    finding.expect(not silent, f"{len(silent)} broken streams did not end in an error event without [DONE]")
    finding.expect(out_s <= bounds_s[0], f"the engine was out after {out_s:.2f} s")
    finding.expect(back_s <= bounds_s[1], f"the engine was used again after {back_s:.2f} s")
    return finding


def _told_by_event(one: Asked) -> bool:
    return not one.answer.done and "before it was complete" in one.answer.error


async def rolling_update(fleet: Fleet, *, per_s: float, pause_s: float, seed: int) -> Finding:
    """Drain each engine under load, and start it again, one after the other."""
    finding = Finding(("engine", "finished its requests", "out after, s", "back after, s"))
    async with steady_load(fleet.peer, per_s=per_s, seed=seed) as asked:
        for engine in fleet.engines:
            await asyncio.sleep(pause_s)
            draining = asyncio.create_task(engine.drain())
            out_s = await _reaches(fleet, engine, lambda state: state != "ready")
            drained = await draining
            await engine.start()
            back_s = await _reaches(fleet, engine, lambda state: state == "ready")
            finding.rows.append([engine.name, drained, f"{out_s:.2f}", f"{back_s:.2f}"])
            finding.expect(drained, f"{engine.name} ended before its requests")
        await asyncio.sleep(pause_s)
    lost = [one for one in asked if not one.answer.complete]
    finding.rows.append([f"all: {len(asked)} requests", f"{len(asked) - len(lost)} complete", "", ""])
    finding.expect(not lost, f"{len(lost)} requests failed: {lost[0].answer if lost else ''}")
    return finding
