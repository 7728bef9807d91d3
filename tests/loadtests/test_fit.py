"""The stand-in's times against the trace of the real engine that they were fitted to."""

import pytest

from serval_load.fit import fit, read_trace, replay
from serval_load.stand_in.costs import FITTED, Costs, read_costs
from serval_load.trace import Decode, Prefill, Trace

# A straight line through what a shared machine measured.
TOLERANCE = 0.35


def test_the_stand_in_repeats_the_real_engines_trace_in_model_time() -> None:
    trace = read_trace(FITTED)
    if not trace.prefills:
        pytest.skip("no trace is stored yet; `python -m serval_load fit` on a running engine stores one")
    modelled = replay(trace, read_costs())
    assert len(trace.prefills) >= 4
    assert len(trace.decodes) >= 5
    for measured, model in zip(trace.prefills, modelled.prefills, strict=True):
        assert model.seconds == pytest.approx(measured.seconds, rel=TOLERANCE), measured
    for measured_batch, model_batch in zip(trace.decodes, modelled.decodes, strict=True):
        assert model_batch.seconds == pytest.approx(measured_batch.seconds, rel=TOLERANCE), measured_batch


def test_a_trace_made_by_the_model_gives_its_own_costs_back() -> None:
    costs = Costs(decode_base_s=0.02, decode_request_s=0.001, prefill_base_s=0.03, prefill_token_s=2e-5)
    asked = Trace(
        "made",
        [Prefill(length, 0.0) for length in (16, 64, 1024, 4096)],
        [Decode(batch, 0.0) for batch in (1, 4, 32)],
    )
    found = fit(replay(asked, costs))
    for name in ("decode_base_s", "decode_request_s", "prefill_base_s", "prefill_token_s"):
        assert getattr(found, name) == pytest.approx(getattr(costs, name)), name
