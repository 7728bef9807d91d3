"""Small runs of the experiments of `python -m serval_load fleet`, without their bounds on times."""

import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from serval_load.answers import Answer
from serval_load.fleet import agents, fairness, leaving, names, updates
from serval_load.fleet.clients import Asked, ask
from serval_load.fleet.finding import Finding
from serval_load.fleet.measured import Measured
from serval_load.fleet.stack import SLOW, Fleet, loads, running_engines, running_gateways

WHOLE = pytest.mark.asyncio(loop_scope="module")
_OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")
NO_BOUND_S = 600.0
SHARE = {"SERVAL_LIMITS_SHARE": "0.3333"}
SHORT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    options = (*SLOW, "--max-running=8", "--drain-every-s=0.2")
    async with (
        running_engines(4, *options) as engines,
        running_gateways(
            engines, gateways=3, keys=2, environment={"SERVAL_LIMITS_SHARE": "0.3333"}
        ) as running,
    ):
        yield running


@WHOLE
async def test_requests_of_clients_that_leave_are_aborted_where_they_run(fleet: Fleet) -> None:
    found = await leaving.leave_at_random(fleet, clients=150, per_s=100, seed=1, bound_s=NO_BOUND_S)
    assert found.problems == []
    assert sum(int(row[1]) for row in found.rows) > 75  # type: ignore[call-overload]  # others left the queue


@WHOLE
async def test_engine_that_runs_requests_of_clients_that_left_is_a_problem(fleet: Fleet) -> None:
    before = await loads(fleet.engines)
    assert (await ask(fleet.peer(), {**SHORT, "stop": ["stand-in:client=stays"]})).complete
    found = await leaving.compare(fleet, {"stays": 0.0}, before, bound_s=NO_BOUND_S)
    assert [problem for problem in found.problems if "was not told to abort 1 requests" in problem]


@WHOLE
async def test_small_key_gets_its_turns_beside_a_large_one(fleet: Fleet) -> None:
    waits = await fairness.flood(fleet, greedy=60, seconds=5, seed=1)
    assert waits.asked
    assert all(one.answer.complete for one in waits.asked)
    # Before gateways gave slots back, an engine that runs eight had some twenty more in its queue for ever.
    assert sum(waits.queues) / len(waits.queues) < 8


@WHOLE
async def test_update_of_one_engine_after_the_other_fails_no_request(fleet: Fleet) -> None:
    assert (await updates.rolling_update(fleet, per_s=20, pause_s=0.2, seed=1)).problems == []


@WHOLE
async def test_killed_engine_fails_only_streams_that_had_begun(fleet: Fleet) -> None:
    bounds_s = NO_BOUND_S, NO_BOUND_S
    found = await updates.kill_under_load(fleet, per_s=20, seconds=2, seed=1, bounds_s=bounds_s)
    assert found.problems == []


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=False).returncode
    != 0,
    reason="needs Linux user namespaces, for a hosts file of the gateway's own",
)
@WHOLE
async def test_engines_are_found_and_lost_by_their_name_in_dns() -> None:
    async with names.running_named(3, gateways=1) as (fleet, file):
        assert (await names.change_names(fleet, file, per_s=10, seed=1)).problems == []


def test_finding_lists_what_did_not_hold() -> None:
    finding = Finding(("what", "count"), [["requests", 3]])
    finding.expect(True, "never said")
    finding.expect(False, "two were lost")
    assert finding.problems == ["two were lost"]
    assert finding.table() == "| what | count |\n| --- | ---: |\n| requests | 3 |"


def test_measured_compares_computed_tokens_with_prompts() -> None:
    answer = Answer(status=200, done=True, finish="stop", prompt_tokens=100)
    run = Measured([Asked(0, 0.0, answer), Asked(0, 1.0, replace(answer, done=False))], [30, 20], cpu_s=0.01)
    assert (run.found, run.busiest, run.incomplete) == (0.75, 1.2, 1)


def test_agents_of_two_layouts_come_at_the_same_times_with_other_texts() -> None:
    one, other = (agents.agents(per_s=1, seconds=20, seed=1, texts=texts) for texts in (0, 1))
    assert [conversation.at for conversation in one] == [conversation.at for conversation in other]
    first, second = (next(conversation[0].turns(agents.LastAnswer())).body for conversation in (one, other))
    assert first["messages"] != second["messages"]
    assert first["max_tokens"] == agents.ANSWER
