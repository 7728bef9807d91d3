"""A gateway in front of several engines: one answers, whatever happens to the others."""

import asyncio
import logging
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from serval.chat import load_chat
from serval.engine.connect import connect_fleet
from serval.engine.model_check import PROBE
from serval.engine.placement import FIRST_PREFILL_PER_S
from serval.settings import Settings
from serval_testkit.fleet import RunningFleet, chat, eventually, new_engine, running_fleet
from serval_testkit.gateway import DEMO_CHECKPOINT, running_gateway
from serval_testkit.processes import free_port
from serval_testkit.stand_in_engine import StandInEngine


def closed_engine() -> StandInEngine:
    """Return an engine that is not there."""
    engine = new_engine()
    engine.url = f"http://127.0.0.1:{free_port()}"
    return engine


async def test_conversations_are_spread_and_stay() -> None:
    async with running_fleet() as fleet:
        texts = [f"Question {number}" for number in range(16)]
        homes = [await fleet.engine_of(text) for text in texts]
        assert {id(engine) for engine in homes} == {id(engine) for engine in fleet.engines}
        assert [await fleet.engine_of(text) for text in texts] == homes
        metrics = await fleet.metrics()
        assert 'serval_place_choices_total{reason="home"} 32.0' in metrics
        name = fleet.engines[0].url.removeprefix("http://")
        sent = len(fleet.engines[0].requests)
        assert f'serval_place_requests_total{{outcome="finished",place="{name}"}} {sent}.0' in metrics


async def test_abort_goes_to_the_engine_that_ran_the_request() -> None:
    async with running_fleet() as fleet:
        for engine in fleet.engines:
            text = await fleet.text_of(engine)
            engine.will_say("Hello", fault="stall")
            engine.generating.clear()
            asking = asyncio.create_task(fleet.ask(text, stream=True))
            await engine.generating.wait()
            asking.cancel()
            await engine.abort_seen.wait()
            assert engine.aborted == [engine.requests[-1]["rid"]]
        assert [len(engine.aborted) for engine in fleet.engines] == [1, 1]


async def test_unanswered_request_goes_to_another_engine() -> None:
    async with running_fleet(breaker_failures=100) as fleet:
        first, second = fleet.engines
        text = await fleet.text_of(first)
        first.hangs_up = True
        sent = len(first.requests), len(second.requests)
        assert await fleet.ask(text) == 200
        assert (len(first.requests), len(second.requests)) == (sent[0] + 1, sent[1] + 1)
        assert second.requests[-1]["rid"] != first.requests[-1]["rid"]


async def test_only_engine_is_asked_again_over_a_new_connection() -> None:
    async with running_fleet(new_engine(), as_range=True) as fleet:
        (engine,) = fleet.engines
        assert await fleet.ask() == 200
        engine.hangs_up = True
        assert await fleet.ask() == 503
        assert len(engine.requests) == 3
        engine.hangs_up = False
        await fleet.reaches(engine, "ready")
        assert await fleet.ask() == 200


async def test_request_is_sent_at_most_twice() -> None:
    engines = [new_engine() for _ in range(4)]
    async with running_fleet(*engines, breaker_failures=100) as fleet:
        for engine in engines:
            engine.hangs_up = True
        assert await fleet.ask("once") == 503
        assert sum(len(engine.requests) for engine in engines) == 2


async def test_request_whose_answer_ends_after_its_headers_goes_to_another_engine() -> None:
    """SGLang sends the headers while the request waits."""
    async with running_fleet(breaker_failures=100) as fleet:
        first, second = fleet.engines
        text = await fleet.text_of(first)
        before = len(second.requests)
        first.will_say(fault="cut")
        assert await fleet.ask(text) == 200
        assert len(second.requests) == before + 1


async def test_answered_request_is_not_sent_again() -> None:
    async with running_fleet() as fleet:
        first, second = fleet.engines
        text = await fleet.text_of(first)
        before = len(first.requests) + len(second.requests)
        first.will_say("partial", fault="cut")
        assert await fleet.ask(text) == 502
        assert len(first.requests) + len(second.requests) == before + 1


@pytest.mark.parametrize("status", [400, 500])
async def test_error_of_an_engine_is_passed_on(status: int) -> None:
    async with running_fleet() as fleet:
        first, second = fleet.engines
        text = await fleet.text_of(first)
        before = len(second.requests)
        first.will_say(fault="http_error", status=status)
        assert await fleet.ask(text) == status
        assert len(second.requests) == before
        assert await fleet.state(first) == "ready"


async def test_busy_engine_is_relieved_by_an_idle_one_only() -> None:
    async with running_fleet() as fleet:
        first, second = fleet.engines
        text = await fleet.text_of(first)
        first.will_say(fault="http_error", status=503)
        before = len(second.requests)
        assert await fleet.ask(text) == 200
        assert len(second.requests) == before + 1
        second.kv_use = 0.9
        await second.load_was_asked()
        first.will_say(fault="http_error", status=503)
        assert await fleet.ask(text) == 503
        assert len(second.requests) == before + 1
        assert await fleet.state(first) == "ready"


async def test_failing_engine_is_left_out_until_it_works_again() -> None:
    async with running_fleet(breaker_failures=2, breaker_open_s=0.1) as fleet:
        first, second = fleet.engines
        text = await fleet.text_of(first)
        for _ in range(2):
            first.will_say(fault="http_error", status=500)
            assert await fleet.ask(text) == 500
        assert await fleet.state(first) == "failing"
        before = len(second.requests)
        assert await fleet.ask(text) == 200
        assert len(second.requests) == before + 1
        assert "\nserval_engine_breaker_open 0.0\n" in await fleet.metrics()
        assert await fleet.is_ready()
        await fleet.reaches(first, "ready")
        assert await fleet.engine_of(text) is first


async def test_gateway_is_not_ready_while_all_engines_fail() -> None:
    async with running_fleet(breaker_failures=1, breaker_open_s=600) as fleet:
        for engine in fleet.engines:
            text = f"Question of {engine.url}"
            for one in fleet.engines:
                one.will_say(fault="http_error", status=500)
            assert await fleet.ask(text) == 500
        assert await fleet.ask() == 503
        assert not await fleet.is_ready()
        assert "\nserval_engine_breaker_open 1.0\n" in await fleet.metrics()


async def test_killed_engine_fails_no_request_and_comes_back() -> None:
    engine, port = new_engine(), free_port()
    async with AsyncExitStack() as stack:
        other = new_engine()
        await stack.enter_async_context(other.running())
        serving = AsyncExitStack()
        await serving.enter_async_context(engine.running(port))
        url = f"{engine.url},{other.url}"
        gateway = await stack.enter_async_context(running_gateway(engine_url=url))
        fleet = RunningFleet(gateway, [engine, other])
        text = await fleet.text_of(engine)
        done: list[int] = []

        async def load() -> None:
            while len(done) < 200:
                done.append(await fleet.ask(f"{text} {len(done)}" if len(done) % 2 else text))

        users = [asyncio.create_task(load()) for _ in range(4)]
        await eventually(lambda: len(done) > 40)
        await serving.aclose()
        await asyncio.gather(*users)
        assert set(done) == {200}
        await fleet.reaches(engine, "unknown")
        assert await stops(fleet, engine) == {"told": 0.0, "lost": 1.0}
        assert await stops(fleet, other) == {"told": 0.0, "lost": 0.0}
        async with engine.running(port):
            await fleet.reaches(engine, "ready")
            assert await fleet.engine_of(text) is engine


async def stops(fleet: RunningFleet, engine: StandInEngine) -> dict[str, float]:
    """Times that the engine stopped, by reason."""
    place = engine.url.removeprefix("http://")
    pattern = rf'serval_place_stops_total{{place="{place}",reason="(\w+)"}} (\S+)'
    return {reason: float(value) for reason, value in re.findall(pattern, await fleet.metrics())}


async def test_draining_engine_gets_no_request_and_ends_those_it_has() -> None:
    async with running_fleet() as fleet:
        first, second = fleet.engines
        text = await fleet.text_of(first)
        first.will_say("Hello", " there", delay_s=1.5)
        first.generating.clear()
        asking = asyncio.create_task(fleet.ask(text))
        await first.generating.wait()
        first.ready = False
        await fleet.reaches(first, "draining")
        assert await stops(fleet, first) == {"told": 1.0, "lost": 0.0}
        before = len(first.requests)
        assert await fleet.engine_of(text) is second
        assert await asking == 200
        assert len(first.requests) == before
        first.ready = True
        await fleet.reaches(first, "ready")
        assert await fleet.engine_of(text) is first


async def test_rolling_update_fails_no_request() -> None:
    async with running_fleet(new_engine(), new_engine(), new_engine()) as fleet:
        done: list[int] = []
        updated = asyncio.Event()

        async def load(user: int) -> None:
            while not updated.is_set():
                done.append(await fleet.ask(f"Question {user} {len(done) % 5}"))

        users = [asyncio.create_task(load(user)) for user in range(4)]
        for engine in fleet.engines:
            engine.ready = False
            await fleet.reaches(engine, "draining")
            engine.ready = True
            await fleet.reaches(engine, "ready")
        updated.set()
        await asyncio.gather(*users)
        assert set(done) == {200}


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for answers to `/ready` no longer than a twentieth of a second."""
    monkeypatch.setattr("serval.engine.client._READY_TIMEOUT", aiohttp.ClientTimeout(total=0.05))


@pytest.mark.usefixtures("quick_looks")
async def test_stalled_engine_stays_and_keeps_its_conversations(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval.engine.client.PATIENCE_S", 60.0)
    async with running_fleet() as fleet:
        first, _ = fleet.engines
        text = await fleet.text_of(first)
        first.hangs = True
        asked = first.ready_asked
        async with asyncio.timeout(60):
            while first.ready_asked < asked + 2:  # noqa: ASYNC110  # a count of requests
                await asyncio.sleep(0.01)
        first.hangs = False
        assert await fleet.engine_of(text) is first
        assert not [record for record in caplog.records if "is unknown" in record.getMessage()]


@pytest.mark.usefixtures("quick_looks")
async def test_hanging_engine_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serval.engine.client.PATIENCE_S", 1.0)
    async with running_fleet() as fleet:
        first, second = fleet.engines
        text = await fleet.text_of(first)
        first.hangs = True
        await fleet.reaches(first, "unknown")
        assert await fleet.engine_of(text) is second
        assert await fleet.is_ready()


async def test_one_ready_engine_of_four_is_enough() -> None:
    engine, loading = new_engine(), new_engine()
    loading.ready = False
    gone = [closed_engine() for _ in range(2)]
    async with engine.running(), loading.running():
        url = ",".join(one.url for one in [*gone, loading, engine])
        async with running_gateway(engine_url=url) as gateway:
            fleet = RunningFleet(gateway, [engine])
            assert await fleet.is_ready()
            assert await fleet.ask() == 200
            assert await fleet.state(loading) == "loading"
            assert [await fleet.state(one) for one in gone] == ["unknown", "unknown"]
            assert "\nserval_engine_up 1.0\n" in await fleet.metrics()
            engine.ready = False
            await fleet.reaches(engine, "draining")
            assert not await fleet.is_ready()
            assert "\nserval_engine_up 0.0\n" in await fleet.metrics()
            assert await fleet.ask() == 503


def other_model() -> StandInEngine:
    engine = new_engine()
    engine.architectures = ["LlamaForCausalLM"]
    return engine


def other_tokenizer() -> StandInEngine:
    engine = new_engine()
    engine.token_offset = 1
    return engine


def whole_texts() -> StandInEngine:
    engine = new_engine()
    engine.incremental_streaming_output = False
    return engine


def half_of_a_pair() -> StandInEngine:
    engine = new_engine()
    engine.role = "decode"
    return engine


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (whole_texts, "the engine at http"),
        (half_of_a_pair, "the engine at http"),
        (other_model, "it serves LlamaForCausalLM, and the others LongcatFlashNgramForCausalLM"),
        (other_tokenizer, "its tokenizer is another one"),
        (lambda: new_engine(context_length=4096), "its context has 4096 tokens"),
    ],
    ids=["whole texts", "half of a pair", "model", "tokenizer", "context"],
)
async def test_engine_with_another_model_is_named_and_not_used(
    other: Any, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = other()
    async with running_fleet(wrong, new_engine(), new_engine()) as fleet:
        assert await fleet.state(wrong) == "mismatch"
        for number in range(12):
            assert await fleet.ask(f"Question {number}") == 200
        assert wrong.requests == []
        (said,) = [record.getMessage() for record in caplog.records if "is not used" in record.getMessage()]
        assert said.startswith(f"engine {wrong.url.removeprefix('http://')} is not used: {problem}")


async def test_engines_with_the_gateways_tokenizer_are_used_even_if_most_have_another() -> None:
    wrong, other, right = other_tokenizer(), other_tokenizer(), new_engine()
    tokens = load_chat(DEMO_CHECKPOINT).tokenizer.encode_text(PROBE)
    async with wrong.running(), other.running():
        settings = Settings(engine_url=f"{wrong.url},{other.url}")
        async with connect_fleet(settings, tokens) as fleet:
            assert not await fleet.is_ready()
            assert set(fleet.states().values()) == {"mismatch"}
        async with right.running():
            settings = Settings(engine_url=f"{wrong.url},{other.url},{right.url}")
            async with connect_fleet(settings, tokens) as fleet:
                assert await fleet.is_ready()
                assert list(fleet.states().values()) == ["mismatch", "mismatch", "ready"]


async def test_engine_that_takes_less_than_promised_is_not_used() -> None:
    async with running_fleet(new_engine(), new_engine()) as fleet:
        second = fleet.engines[1]
        second.ready = False
        await fleet.reaches(second, "draining")
        second.max_req_input_len -= 1
        second.ready = True
        await fleet.reaches(second, "mismatch")
        assert await fleet.ask() == 200


async def test_file_adds_and_removes_engines_without_a_break(tmp_path: Path) -> None:
    file = tmp_path / "engines"
    first, second, third = new_engine(), new_engine(), new_engine()
    async with first.running(), second.running(), third.running():
        file.write_text(f"{first.url}\n{second.url}\n{first.url}\nhttp://no-such-host.invalid:1\n")
        async with running_gateway(engines_file=file) as gateway:
            fleet = RunningFleet(gateway, [first, second, third])
            assert await fleet.state(second) == "ready"
            assert await fleet.state(third) == "gone"
            text = await fleet.text_of(first)
            first.will_say("Hello", " there", delay_s=2.0)
            first.generating.clear()
            asking = asyncio.create_task(fleet.ask(text))
            await first.generating.wait()
            file.write_text(f"{third.url} {second.url}")
            await fleet.reaches(third, "ready")
            await fleet.reaches(first, "gone")
            before = len(first.requests)
            for number in range(12):
                assert await fleet.ask(f"Question {number}") == 200
            assert third.requests
            assert len(first.requests) == before
            assert await asking == 200


async def test_engine_that_is_named_again_is_used_before_its_requests_have_ended(tmp_path: Path) -> None:
    """A file may be read while it is half written, or be mended after a slip."""
    file = tmp_path / "engines"
    engine = new_engine()
    async with engine.running():
        file.write_text(engine.url)
        async with running_gateway(engines_file=file) as gateway:
            fleet = RunningFleet(gateway, [engine])
            engine.will_say("Hello", fault="silent")
            asking = asyncio.create_task(fleet.ask())
            await engine.generating.wait()
            file.write_text("")
            await fleet.reaches(engine, "gone")
            assert await fleet.ask() == 503
            file.write_text(engine.url)
            await fleet.reaches(engine, "ready")
            assert await fleet.ask() == 200
            assert not asking.done()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def test_ranks_are_places_of_their_own() -> None:
    engine = new_engine()
    engine.ranks = 2
    async with running_fleet(engine, as_range=True) as fleet:
        ranks = []
        for number in range(12):
            await fleet.ask(f"Question {number}")
            await fleet.ask(f"Question {number}")
            one, other = engine.requests[-2:]
            assert one["routed_dp_rank"] == other["routed_dp_rank"]
            ranks.append(one["routed_dp_rank"])
        assert set(ranks) == {0, 1}
        name = engine.url.removeprefix("http://")
        assert f'serval_place_state{{place="{name}#1",state="ready"}} 1.0' in await fleet.metrics()


async def test_idle_engine_takes_what_would_wait_too_long(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    async with running_fleet() as fleet:
        first, second = fleet.engines
        text = await fleet.text_of(first)
        first.waiting_uncached = 200_000
        await first.load_was_asked()
        assert await fleet.engine_of(text) is second
        assert 'serval_place_choices_total{reason="idle"} 1.0' in await fleet.metrics()


async def test_metrics_have_the_seconds_of_prefill_that_wait_at_a_place() -> None:
    async with running_fleet() as fleet:
        first, second = fleet.engines
        first.waiting_uncached = 200_000
        await first.load_was_asked()
        await fleet.ask()

        async def waiting() -> dict[str, float]:
            lines = (await fleet.metrics()).splitlines()
            found = [line.split() for line in lines if line.startswith("serval_place_waiting_seconds{")]
            return {name.split('"')[1]: float(value) for name, value in found}

        seconds = await waiting()
        assert seconds[first.url.removeprefix("http://")] == 200_000 / FIRST_PREFILL_PER_S
        assert seconds[second.url.removeprefix("http://")] == 0
        first.ready = False
        await fleet.reaches(first, "draining")
        assert set((await waiting()).values()) == {0}


async def test_restarted_engine_is_known_to_hold_nothing() -> None:
    async with running_fleet() as fleet:
        first, second = fleet.engines
        words = " ".join(["word"] * 1500)
        text = await fleet.text_of(first, then=f" {words}")
        first.waiting_uncached = 200_000
        await first.load_was_asked()
        assert await fleet.engine_of(text) is second
        first.waiting_uncached = 0
        await first.load_was_asked()
        # Both hold it now, and then neither.
        for engine in (first, second):
            engine.ready = False
            await fleet.reaches(engine, "draining")
            engine.ready = True
            await fleet.reaches(engine, "ready")
            assert await fleet.engine_of(text) is (second if engine is first else first)


async def test_request_sent_twice_is_charged_once() -> None:
    async with running_fleet(requests_per_minute=3) as fleet:
        assert await fleet.ask() == 200
        home = next(engine for engine in fleet.engines if engine.requests)
        home.hangs_up = True
        assert await fleet.ask() == 200
        assert sum(len(engine.requests) for engine in fleet.engines) == 3
        assert await fleet.ask() == 200
        assert await fleet.ask() == 429
        prompt = len(home.requests[0]["input_ids"])
        assert f'serval_tokens_total{{kind="prompt"}} {3.0 * prompt}' in await fleet.metrics()


async def test_limit_of_concurrent_requests_is_over_all_engines() -> None:
    async with running_fleet(concurrent_requests=1) as fleet:
        first, second = fleet.engines
        texts = [await fleet.text_of(engine) for engine in (first, second)]
        first.will_say("Hello", fault="stall")
        first.generating.clear()
        asking = asyncio.create_task(fleet.ask(texts[0], stream=True))
        await first.generating.wait()
        assert await fleet.ask(texts[1]) == 429
        asking.cancel()
        await first.abort_seen.wait()


async def test_salts_and_prompts_are_those_of_one_engine() -> None:
    async with running_fleet() as fleet, running_gateway() as gateway:
        await fleet.ask("Hi", max_tokens=7)
        await gateway.post(chat("Hi", max_tokens=7))
        (of_fleet,) = [body for engine in fleet.engines for body in engine.requests]
        (of_one,) = gateway.engine.requests
        of_fleet.pop("rid"), of_one.pop("rid")
        assert of_fleet == of_one


async def test_busy_engine_is_not_relieved_by_a_canary() -> None:
    async with running_fleet(options=("", ";weight=0.05")) as fleet:
        first, canary = fleet.engines
        text = await fleet.text_of(first)
        first.will_say(fault="http_error", status=503)
        before = len(canary.requests)
        assert await fleet.ask(text) == 503
        assert len(canary.requests) == before


async def test_conversations_of_a_canary_that_fails_are_answered_by_another_engine() -> None:
    async with running_fleet(options=("", ";weight=60%"), breaker_failures=100) as fleet:
        first, canary = fleet.engines
        text = await fleet.text_of(canary)
        canary.hangs_up = True
        before = len(first.requests)
        assert await fleet.ask(text) == 200
        assert len(first.requests) == before + 1
        canary.ready = False
        await fleet.reaches(canary, "draining")
        assert await fleet.engine_of(text) is first


async def test_weight_and_version_are_read_again_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "engines"
    engines = [new_engine(), new_engine()]
    async with AsyncExitStack() as stack:
        for engine in engines:
            await stack.enter_async_context(engine.running())
        first, second = (engine.url for engine in engines)
        file.write_text(f"{first};version=old {second};version=old")
        gateway = await stack.enter_async_context(running_gateway(engines_file=file))
        fleet = RunningFleet(gateway, engines)
        for engine in engines:
            await fleet.reaches(engine, "ready")
        file.write_text(f"{first};version=old {second};version=new;weight=0")
        name = second.removeprefix("http://")
        async with asyncio.timeout(60):
            while f'serval_place_info{{place="{name}",version="new"}} 1.0' not in await fleet.metrics():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        metrics = await fleet.metrics()
        assert f'serval_place_info{{place="{name}",version="old"}} 0.0' in metrics
        assert f'serval_place_weight{{place="{name}"}} 0.0' in metrics
        assert {await fleet.engine_of(f"Question {number}") for number in range(8)} == {engines[0]}
        assert f'serval_place_first_token_seconds_count{{place="{name}"}}' not in await fleet.metrics()
