"""Fit of the stand-in's costs to the stored trace of a real engine."""

import statistics
from pathlib import Path

import pytest

from serval_load.client import Peer
from serval_load.commands.fit import read_sizes
from serval_load.fit import errors, fit, read_trace, replay, table
from serval_load.programs import QUICK, running_stand_in
from serval_load.report.sections import replace_section
from serval_load.stand_in.costs import FITTED, Costs, read_costs
from serval_load.trace import Decode, Prefill, Trace, record

ROOT = Path(__file__).resolve().parents[2]
# A straight line through measurements of a shared machine.
TOLERANCE = 0.2
MEDIAN_TOLERANCE = 0.1


def test_replay_matches_the_trace_of_the_real_engine() -> None:
    trace = read_trace(FITTED)
    modelled = replay(trace, read_costs())
    assert len(trace.prefills) >= 4
    assert len(trace.decodes) >= 5
    off = errors(trace, modelled)
    assert max(off) < TOLERANCE, off
    assert statistics.median(off) < MEDIAN_TOLERANCE, off


def test_results_table_matches_the_stored_trace() -> None:
    trace = read_trace(FITTED)
    results = (ROOT / "loadtests/RESULTS.md").read_text()
    again = replace_section(results, "fit", table(trace, replay(trace, read_costs())))
    assert again == results, "python -m serval_load fit --into loadtests/RESULTS.md writes both"


async def test_record_measures_all_lengths_and_batches() -> None:
    # Long enough for tokens to come one by one on a busy machine.
    async with running_stand_in(*QUICK, "--decode-base-s=0.03") as (_, url):
        trace = await record(
            Peer.of(url),
            source="here",
            lengths=(16, 64),
            batches=(1, 3),
            vocabulary=1000,
            repeats=2,
            log=print,
        )
        sizes = await read_sizes(Peer.of(url))
    assert sizes == {"kv_tokens": 65_536}
    assert [one.tokens for one in trace.prefills] == [16, 64]
    assert [one.batch for one in trace.decodes] == [1, 3]
    assert all(one.seconds > 0 for one in (*trace.prefills, *trace.decodes))


def test_fit_recovers_the_costs_behind_a_trace() -> None:
    costs = Costs(decode_base_s=0.02, decode_request_s=0.001, prefill_base_s=0.03, prefill_token_s=2e-5)
    asked = Trace(
        "made",
        [Prefill(length, 0.0) for length in (16, 64, 1024, 4096)],
        [Decode(batch, 0.0) for batch in (1, 4, 32)],
    )
    found = fit(replay(asked, costs))
    for name in ("decode_base_s", "decode_request_s", "prefill_base_s", "prefill_token_s"):
        assert getattr(found, name) == pytest.approx(getattr(costs, name)), name
