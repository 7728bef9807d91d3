"""Failures of the engine: clients get an error, nothing else is lost, and every slot is free afterwards."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from serval_load.programs import QUICK, running_stand_in
from serval_testkit.load_stack import LoadStack, load_stack
from serval_testkit.recovery import Recoveries

pytestmark = pytest.mark.asyncio(loop_scope="module")
# Longer than a step on a busy machine, or healthy streams would end too.
STALL_S = 3.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[LoadStack]:
    async with load_stack(settings={"SERVAL_ENGINE_STALL_TIMEOUT_S": str(STALL_S)}) as running:
        yield running


@pytest.mark.parametrize("order", ["cut=5", "garbage=5", "error=5", "oom=5", "stall=5"])
async def test_broken_stream_ends_with_an_error_and_without_done(stack: LoadStack, order: str) -> None:
    broken, *others = await asyncio.gather(
        stack.ask(order), stack.ask(tokens=60), stack.ask(tokens=60), stack.ask(tokens=60)
    )
    assert broken.status == 200
    assert broken.error
    assert not broken.done
    assert broken.finish is None
    assert all(other.complete for other in others)
    await stack.all_free()


@pytest.mark.parametrize(
    ("order", "status"),
    [("cut=5", 502), ("garbage=5", 502), ("error=5", 500), ("oom=5", 500), ("stall=5", 504), ("refuse", 503)],
)
async def test_broken_whole_answer_has_the_status_of_its_fault(
    stack: LoadStack, order: str, status: int
) -> None:
    told, body = await stack.ask_whole(order)
    assert told == status, body
    assert body["error"]["message"]
    await stack.all_free()


async def test_failure_before_the_first_token_is_a_status(stack: LoadStack) -> None:
    answer = await stack.ask("refuse")
    assert answer.status == 503
    await stack.all_free()


async def test_frozen_engine_fails_its_requests_and_serves_after_thawing(
    stack: LoadStack, recovery: Recoveries
) -> None:
    streams = [asyncio.create_task(stack.ask(tokens=2000)) for _ in range(4)]
    await stack.generating(4)
    stack.engine.process.send_signal(signal.SIGSTOP)
    try:
        for answer in await asyncio.gather(*streams):
            assert answer.error
            assert not answer.done
    finally:
        stack.engine.process.send_signal(signal.SIGCONT)
    with recovery("engine frozen, goes on: every slot free and served"):
        await stack.all_free()
        assert (await stack.ask()).complete


async def test_killed_engine_fails_its_streams_and_a_new_one_takes_over(recovery: Recoveries) -> None:
    async with load_stack() as stack:
        streams = [asyncio.create_task(stack.ask(tokens=4000)) for _ in range(8)]
        await stack.generating(8)
        # Time for a few tokens of most streams.
        await asyncio.sleep(0.5)
        stack.engine.process.kill()
        answers = await asyncio.gather(*streams)
        for answer in answers:
            # The error is in the stream if that had begun, else a status.
            assert answer.error
            assert not answer.done
        assert any(answer.times_s for answer in answers)
        down = await stack.ask()
        assert down.status == 503
        assert "Try again" in down.error
        # Restart on the same address, as a supervisor or Kubernetes does; the gateway runs on.
        async with running_stand_in(*QUICK, f"--port={stack.engine_peer.port}"):
            with recovery("engine killed, another listens: served"):
                async with asyncio.timeout(60):
                    while not (await stack.ask()).complete:  # noqa: ASYNC110  # the requests are the test
                        await asyncio.sleep(0.1)
            await stack.all_free()


async def test_small_kv_cache_delays_answers_and_loses_none() -> None:
    # Room for about four of sixteen requests: the others wait, and some are retracted.
    async with load_stack(engine_options=(*QUICK, "--kv-tokens=600")) as stack:
        answers = await stack.many(16, tokens=120)
        assert all(answer.complete for answer in answers), [answer.error for answer in answers]
        assert {answer.completion_tokens or len(answer.text.split()) for answer in answers} == {120}
        await stack.all_free()
        too_long = await stack.ask_whole(tokens=20)
        assert too_long[0] == 200


async def test_full_engine_queue_refuses_further_requests_with_503() -> None:
    # More slots than the engine has room for, or the gateway's own queue would hold the rest.
    settings = {"SERVAL_ENGINE_SLOTS": "100"}
    options = (*QUICK, "--max-running=2", "--max-waiting=2")
    async with load_stack(engine_options=options, settings=settings) as stack:
        # Let two run first: within a single burst none might run yet when the queue is full.
        running = [asyncio.create_task(stack.ask(tokens=2000)) for _ in range(2)]
        await stack.generating(2)
        beyond = await stack.many(10, tokens=100)
        answers = [*await asyncio.gather(*running), *beyond]
        assert sum(answer.complete for answer in answers) == 4
        assert all(answer.status == 503 for answer in answers if not answer.complete)
        await stack.all_free()
