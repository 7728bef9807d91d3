"""Prediction of workloads: arrivals, agents, subagents, several engines."""

import pytest

from serval.workload_files import Call, Session, Spawn, Workload
from serval_sglang.plan.prediction import Prediction, predict
from serval_sglang.plan.simulated_engine import EngineSizes
from serval_sglang.plan.step_costs import MeasuredCosts

COSTS = MeasuredCosts(decode_base_s=0.1, decode_request_s=0.0, prefill_base_s=1.0, prefill_token_s=0.0)
SIZES = EngineSizes(kv_tokens=100_000, chunk_tokens=1_000_000, max_running=100)


def found(*sessions: Session, agents: int | None = None, engines: int = 1) -> Prediction:
    return predict(Workload(sessions), COSTS, SIZES, agents=agents, engines=engines)


def test_arrivals_make_an_open_loop() -> None:
    one = Session((Call(100, 11),), start_s=0.0)
    later = Session((Call(300, 11, cached=150),), start_s=10.0)
    result = found(one, later)
    assert result.requests == 2
    assert result.first_s == (pytest.approx(1.0),) * 3
    assert result.seconds == pytest.approx(12.0)
    assert result.user_tokens_per_s == pytest.approx(10.0)
    assert result.output_tokens_per_s == pytest.approx(22 / 12)
    assert result.tokens_per_s == pytest.approx(422 / 12)
    assert result.cached_share == pytest.approx(150 / 400)
    assert result.busy == pytest.approx(4 / 12)
    assert result.slots == 1


def test_agents_take_the_next_session_after_the_last_turn_and_its_pause() -> None:
    session = Session((Call(100, 11), Call(200, 11, pause_s=5.0)))
    alone = found(session, session, agents=1)
    assert alone.seconds == pytest.approx(2 * (2 + 5 + 2))
    assert alone.cached_share == pytest.approx(111 / 300)
    together = found(session, session, agents=2)
    assert together.seconds == pytest.approx(9.0)
    assert together.slots == 2


def test_agent_waits_for_its_subagents_which_run_together() -> None:
    parent = Session((Call(100, 11), Call(200, 11)))
    short, long = (Session((Call(50, length),), after=Spawn(0, 0)) for length in (11, 41))
    result = found(parent, short, long, agents=1)
    assert result.requests == 4
    assert result.slots == 2
    assert result.seconds == pytest.approx(2 + (1 + 4) + 2)


def test_engines_share_sessions_and_each_keeps_its_own() -> None:
    session = Session((Call(100, 11), Call(200, 11)))
    one, two = found(session, session, agents=2), found(session, session, agents=2, engines=2)
    assert two.slots == 1 < one.slots
    assert two.cached_share == one.cached_share > 0
    assert two.busy == pytest.approx(1.0)


def test_requests_longer_than_the_cache_fail() -> None:
    result = found(Session((Call(200_000, 5), Call(100, 5))), agents=1)
    assert (result.requests, result.failed) == (2, 1)


def test_prediction_needs_arrivals_or_agents() -> None:
    with pytest.raises(ValueError, match="--concurrency"):
        found(Session((Call(1, 1),)))
