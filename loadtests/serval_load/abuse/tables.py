"""Markdown tables of runs, a column for each checkout."""

from collections.abc import Mapping, Sequence

from serval_load.abuse.run import AbuseResult


def mix_table(runs: Mapping[str, AbuseResult]) -> str:
    """Return what the whole mix did to each checkout's gateway."""
    found = list(runs.values())
    rows = {
        "memory limit": [one.limit for one in found],
        "the gateway": ["held" if one.ended is None else f"killed ({one.ended})" for one in found],
        "memory before, MB": [f"{one.memory_before_mb:.0f}" for one in found],
        "memory at most, MB": [f"{one.memory_peak_mb:.0f}" for one in found],
        "memory after, MB": [f"{one.memory_after_mb:.0f}" for one in found],
        "streams lost": [f"{one.noticed.streams_lost} of {one.noticed.streams}" for one in found],
        "ordinary prompts lost": [f"{one.noticed.prompts_lost} of {one.noticed.prompts}" for one in found],
        "an ordinary prompt of 20 KB waited at most": [f"{one.noticed.prompt_s:.2f} s" for one in found],
        "`/healthz` waited at most": [f"{one.noticed.health_s:.2f} s" for one in found],
        "a server beside it waited at most": [f"{one.noticed.beside_s:.2f} s" for one in found],
        "all abusive requests answered after": [f"{one.took_s:.0f} s" for one in found],
    }
    return _table(["", *runs], [[name, *cells] for name, cells in rows.items()])


def kinds_table(runs: Mapping[str, Mapping[str, AbuseResult]]) -> str:
    """Return what one request of each kind did, by checkout and kind."""
    names = list(next(iter(runs.values())))
    head = ["one request of", *(f"{tree}: MB more, `/healthz`, answer after" for tree in runs)]
    return _table(head, [[name, *(_one(found[name]) for found in runs.values())] for name in names])


def _one(found: AbuseResult) -> str:
    if found.ended is not None:
        return f"killed after {found.took_s:.1f} s"
    more = found.memory_peak_mb - found.memory_before_mb
    return f"{more:.0f}, {found.noticed.health_s:.2f} s, {found.took_s:.1f} s"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
