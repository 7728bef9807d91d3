"""A gateway in front of pairs of engines: both get each request, and what ends one half ends the other."""

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import APIError

from serval.engine import pair as pair_module
from serval.engine.client import connect_engine
from serval.engine.pair import EnginePair, joined_loads
from serval.engine.pair_url import PairUrl
from serval.engine.protocol import RankLoad
from serval.errors import SettingsError
from serval.settings import Settings
from serval_testkit.fleet import chat, eventually, new_engine
from serval_testkit.gateway import MODEL, running_gateway
from serval_testkit.pairs import BOOTSTRAP_PORT, RunningPairs, StandInPair, new_pair, running_pairs
from serval_testkit.stand_in_engine import StandInEngine


async def asked_of(fleet: RunningPairs, pair: StandInPair) -> str:
    """Return a question whose home is the pair."""
    for number in range(1000):
        text, before = f"Question {number}", pair.sent
        assert await fleet.ask(text) == 200
        if pair.sent != before:
            return text
    raise AssertionError("no question goes there")


async def aborted(engine: StandInEngine) -> None:
    """Wait until the engine has been told to abort a request."""
    async with asyncio.timeout(60):
        await engine.abort_seen.wait()


async def test_both_engines_get_the_request_and_the_decode_engine_answers() -> None:
    pair = new_pair()
    async with running_pairs(pair) as fleet:
        pair.decode.will_say("Hi", " there", cached_tokens=3)
        answer = await (await fleet.gateway.post(chat())).json()
        assert answer["choices"][0]["message"]["content"] == "Hi there"
        assert answer["usage"]["completion_tokens"] == 2
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
        (for_prefill,), (for_decode,) = pair.prefill.requests, pair.decode.requests
        assert for_prefill == for_decode
        assert (for_decode["bootstrap_host"], for_decode["bootstrap_port"]) == ("127.0.0.1", BOOTSTRAP_PORT)
        assert 0 < for_decode["bootstrap_room"] < 1 << 63
        assert await fleet.ask() == 200
        assert pair.decode.requests[1]["bootstrap_room"] != for_decode["bootstrap_room"]
        assert pair.prefill.aborted == pair.decode.aborted == []
        metrics = await fleet.metrics()
        assert f'serval_place_requests_total{{outcome="finished",place="{pair.name}"}} 2.0' in metrics


async def test_request_of_a_lone_engine_has_no_room() -> None:
    async with running_gateway() as gateway:
        await gateway.post(chat())
        assert not any(name.startswith(("bootstrap", "disagg")) for name in gateway.engine.requests[0])


@pytest.mark.parametrize("pieces", [(), ("Hello",)], ids=["before the answer", "within it"])
async def test_both_engines_are_told_when_the_client_leaves(pieces: tuple[str, ...]) -> None:
    pair = new_pair()
    async with running_pairs(pair) as fleet:
        pair.prefill.will_say(fault="silent")
        pair.decode.will_say(*pieces, fault="stall")
        asking = asyncio.create_task(fleet.ask(stream=True))
        await pair.prefill.generating.wait()
        await pair.decode.generating.wait()
        asking.cancel()
        await aborted(pair.prefill)
        await aborted(pair.decode)
        assert pair.prefill.aborted == pair.decode.aborted == [pair.decode.requests[0]["rid"]]


@pytest.mark.parametrize(
    ("fault", "status", "answered"),
    [
        ("http_error", 400, 400),
        ("http_error", 500, 500),
        ("error_event", 400, 400),
        ("error_event", 500, 500),
    ],
)
async def test_error_of_the_prefill_engine_ends_the_request(fault: Any, status: int, answered: int) -> None:
    pair, other = new_pair(), new_pair()
    async with running_pairs(pair, other) as fleet:
        text = await asked_of(fleet, pair)
        before = other.sent
        pair.prefill.will_say(fault=fault, status=status)
        pair.decode.will_say(fault="silent")
        assert await fleet.ask(text) == answered
        await aborted(pair.decode)
        assert pair.decode.aborted == [pair.decode.requests[-1]["rid"]]
        assert pair.prefill.aborted == []
        assert other.sent == before
        assert await fleet.pair_state(pair) == "ready"


async def read(
    fleet: RunningPairs, begun: asyncio.Event, *, then: asyncio.Event | None = None
) -> tuple[str, str | None]:
    """Stream an answer: set `begun` at its first text and, when the gateway has heard of what that leads to,
    `then`. Return text and finish reason."""
    stream = await fleet.gateway.openai.chat.completions.create(**chat(), stream=True)
    text, finish = "", None
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason
        if text:
            begun.set()
            # The gateway reads its sockets before it answers this.
            await fleet.is_ready()
            if then is not None:
                then.set()
    return text, finish


async def test_error_of_the_prefill_engine_ends_an_answer_that_has_begun() -> None:
    """It says that the keys and values are not as they should be."""
    pair, begun = new_pair(), asyncio.Event()
    async with running_pairs(pair) as fleet:
        pair.prefill.will_say(fault="error_event", hold=begun)
        pair.decode.will_say("Hello", fault="stall")
        with pytest.raises(APIError, match="failed on this request"):
            await read(fleet, begun)
        await aborted(pair.decode)
        assert begun.is_set()


async def test_error_of_the_decode_engine_ends_the_request() -> None:
    pair = new_pair()
    async with running_pairs(pair) as fleet:
        pair.prefill.will_say(fault="silent")
        pair.decode.will_say(fault="http_error", status=400)
        assert await fleet.ask() == 400
        await aborted(pair.prefill)
        assert pair.prefill.aborted == [pair.prefill.requests[0]["rid"]]


def hang_up(engine: StandInEngine) -> None:
    """Have the engine close connections without an answer."""
    engine.hangs_up = True


def break_off(engine: StandInEngine) -> None:
    """Have the engine begin its next answer, and close the connection before the first token."""
    engine.will_say(fault="cut")


@pytest.mark.parametrize("death", [hang_up, break_off])
@pytest.mark.parametrize("half", ["prefill", "decode"])
async def test_death_of_either_before_the_answer_sends_the_request_to_another_pair(
    half: str, death: Any
) -> None:
    pair, other = new_pair(), new_pair()
    async with running_pairs(pair, other, breaker_failures=100) as fleet:
        text = await asked_of(fleet, pair)
        dies, lives = (pair.prefill, pair.decode) if half == "prefill" else (pair.decode, pair.prefill)
        death(dies)
        lives.will_say(fault="silent")
        before = other.sent
        assert await fleet.ask(text) == 200
        await aborted(lives)
        assert lives.aborted == [lives.requests[-1]["rid"]]
        assert other.sent == (before[0] + 1, before[1] + 1)
        assert other.decode.requests[-1]["rid"] != lives.requests[-1]["rid"]
        assert other.decode.requests[-1]["bootstrap_room"] != lives.requests[-1]["bootstrap_room"]


async def test_death_of_the_prefill_engine_after_the_first_token_does_no_harm() -> None:
    """The decode engine has all it needs."""
    pair, begun, gone = new_pair(), asyncio.Event(), asyncio.Event()
    async with running_pairs(pair) as fleet:
        pair.prefill.will_say(fault="cut", hold=begun)
        pair.decode.will_say("Hello", " there", hold=gone)
        assert await read(fleet, begun, then=gone) == ("Hello there", "stop")
        assert pair.sent == (1, 1)
        assert pair.decode.aborted == []


async def test_death_of_the_decode_engine_within_the_answer_ends_it() -> None:
    pair, other = new_pair(), new_pair()
    async with running_pairs(pair, other) as fleet:
        text = await asked_of(fleet, pair)
        before = other.sent
        pair.prefill.will_say(fault="silent")
        pair.decode.will_say("partial", fault="cut")
        assert await fleet.ask(text) == 502
        await aborted(pair.prefill)
        assert other.sent == before


async def test_request_is_sent_to_two_pairs_at_most() -> None:
    pairs = [new_pair() for _ in range(3)]
    async with running_pairs(*pairs, breaker_failures=100) as fleet:
        for pair in pairs:
            pair.prefill.hangs_up = True
            pair.decode.script = lambda _: pytest.fail("the prefill engine has gone first")
            pair.decode.will_say(fault="silent")
        assert await fleet.ask() == 503
        assert sum(len(pair.prefill.requests) for pair in pairs) == 2


async def test_busy_half_is_relieved_by_an_idle_pair() -> None:
    pair, other = new_pair(), new_pair()
    async with running_pairs(pair, other) as fleet:
        text = await asked_of(fleet, pair)
        before = other.sent
        pair.prefill.will_say(fault="http_error", status=503)
        pair.decode.will_say(fault="silent")
        assert await fleet.ask(text) == 200
        assert other.sent == (before[0] + 1, before[1] + 1)
        assert await fleet.pair_state(pair) == "ready"


async def test_prefill_engine_that_ends_late_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_module, "_ENDING_S", 0.1)
    pair = new_pair()
    async with running_pairs(pair) as fleet:
        pair.prefill.will_say(fault="silent")
        assert await fleet.ask() == 200
        await aborted(pair.prefill)
        assert pair.prefill.aborted == [pair.prefill.requests[0]["rid"]]
        assert pair.decode.aborted == []


@pytest.mark.parametrize("half", ["prefill", "decode"])
async def test_pair_is_as_ready_as_both_its_engines(half: str) -> None:
    pair = new_pair()
    async with running_pairs(pair) as fleet:
        engine: StandInEngine = getattr(pair, half)
        engine.ready = False
        await reaches(fleet, pair, "draining")
        assert not await fleet.is_ready()
        assert await fleet.ask() == 503
        engine.ready = True
        await reaches(fleet, pair, "ready")
        assert await fleet.ask() == 200


async def reaches(fleet: RunningPairs, pair: StandInPair, state: str) -> None:
    async with asyncio.timeout(60):
        while await fleet.pair_state(pair) != state:  # noqa: ASYNC110  # told by a page
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("half", ["prefill", "decode"])
async def test_pair_fails_while_either_of_its_engines_does(half: str) -> None:
    pair, other = new_pair(), new_pair()
    async with running_pairs(pair, other, breaker_failures=2, breaker_open_s=0.1) as fleet:
        text = await asked_of(fleet, pair)
        fails, waits = (pair.prefill, pair.decode) if half == "prefill" else (pair.decode, pair.prefill)
        for _ in range(2):
            fails.will_say(fault="http_error", status=500)
            waits.will_say(fault="silent")
            assert await fleet.ask(text) == 500
        assert await fleet.pair_state(pair) == "failing"
        before = other.sent
        assert await fleet.ask(text) == 200
        assert other.sent == (before[0] + 1, before[1] + 1)
        await reaches(fleet, pair, "ready")
        before = pair.sent
        assert await fleet.ask(text) == 200
        assert pair.sent == (before[0] + 1, before[1] + 1)


async def test_breaker_of_a_pair_is_open_until_those_of_both_engines_are_closed() -> None:
    settings = Settings(breaker_failures=1, breaker_open_s=600)
    async with (
        connect_engine(settings, "http://p:1") as prefill,
        connect_engine(settings, "http://d:1") as decode,
    ):
        pair = EnginePair(PairUrl("http://p:1", "http://d:1"), prefill, decode)
        said: list[bool] = []
        pair.watch_breaker(said.append)
        assert not pair.is_failing
        for breaker in (prefill.breaker, decode.breaker):
            breaker.record_failure()
            assert pair.is_failing
        prefill.breaker.record_success()
        assert pair.is_failing
        assert said == [True, True, True]
        decode.breaker.record_success()
        assert not pair.is_failing
        assert said[3:] == [False]


def swapped(pair: StandInPair) -> None:
    pair.prefill.role, pair.decode.role = "decode", "prefill"


def with_another_tokenizer(pair: StandInPair) -> None:
    pair.prefill.token_offset = 1


def with_another_model(pair: StandInPair) -> None:
    pair.prefill.architectures = ["LlamaForCausalLM"]


def that_is_none(pair: StandInPair) -> None:
    pair.decode.role = "null"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (swapped, "--disaggregation-mode decode, and the first engine of a pair needs prefill"),
        (that_is_none, "--disaggregation-mode null, and the second engine of a pair needs decode"),
        (with_another_tokenizer, "its two engines serve different models"),
        (with_another_model, "it serves LlamaForCausalLM"),
    ],
)
async def test_pair_that_does_not_fit_is_named_once_and_not_used(
    change: Any, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, right = new_pair(), new_pair()
    change(wrong)
    async with running_pairs(wrong, right) as fleet:
        assert await fleet.pair_state(wrong) == "mismatch"
        for number in range(6):
            assert await fleet.ask(f"Question {number}") == 200
        assert wrong.sent == (0, 0)
        said = [record.getMessage() for record in caplog.records if "is not used" in record.getMessage()]
        assert len(said) == 1
        assert said[0].startswith(f"engine {wrong.name} is not used: ")
        assert problem in said[0]


async def test_half_of_a_pair_is_not_used_alone() -> None:
    engine = new_engine()
    engine.role = "prefill"
    async with engine.running(), connect_engine(Settings(engine_url=engine.url)) as client:
        with pytest.raises(
            SettingsError, match=r"--disaggregation-mode prefill, .* is of use in a pair only"
        ):
            await client.info()


async def test_shorter_of_two_limits_is_promised() -> None:
    pair = new_pair()
    pair.prefill.max_req_input_len = 100
    async with running_pairs(pair) as fleet:
        assert await fleet.ask("word " * 200) == 400
        assert pair.sent == (0, 0)


async def test_ranks_of_the_prefill_engine_are_places_of_their_own() -> None:
    pair = new_pair()
    pair.prefill.ranks = 2
    async with running_pairs(pair) as fleet:
        for number in range(12):
            assert await fleet.ask(f"Question {number}") == 200
        for for_prefill, for_decode in zip(pair.prefill.requests, pair.decode.requests, strict=True):
            assert for_decode["disagg_prefill_dp_rank"] == for_prefill["routed_dp_rank"]
            assert "routed_dp_rank" not in for_decode
            assert "disagg_prefill_dp_rank" not in for_prefill
        assert {body["routed_dp_rank"] for body in pair.prefill.requests} == {0, 1}


async def test_log_probabilities_of_a_prompt_are_refused() -> None:
    pair = new_pair()
    async with running_pairs(pair) as fleet:
        body = {"model": MODEL, "prompt": "Hi", "max_tokens": 1, "echo": True, "logprobs": 1}
        response = await fleet.gateway.post(body, path="/v1/completions")
        assert response.status == 400
        assert "share out prefill and decode" in await response.text()
        assert pair.sent == (0, 0)


async def test_file_adds_and_removes_pairs(tmp_path: Path) -> None:
    file = tmp_path / "engines"
    first, second = new_pair(), new_pair()
    async with AsyncExitStack() as stack:
        for engine in (first.prefill, first.decode, second.prefill, second.decode):
            await stack.enter_async_context(engine.running())
        file.write_text(first.url)
        fleet = RunningPairs(await stack.enter_async_context(running_gateway(engines_file=file)), [])
        assert await fleet.ask() == 200
        file.write_text(f"# the next one\n{second.url}")
        await reaches(fleet, second, "ready")
        await reaches(fleet, first, "gone")
        assert await fleet.ask() == 200
        assert (first.sent, second.sent) == ((1, 1), (1, 1))


async def test_stopped_gateway_ends_both_halves(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    pair = new_pair()
    async with running_pairs(pair) as fleet:
        pair.prefill.will_say(fault="silent")
        pair.decode.will_say("Hello", fault="stall")
        asking = asyncio.create_task(fleet.ask(stream=True))
        await pair.decode.generating.wait()
        asking.cancel()
        await eventually(lambda: bool(pair.prefill.aborted and pair.decode.aborted))
    assert not [record for record in caplog.records if "never retrieved" in record.getMessage()]


def test_joined_loads_count_each_request_once() -> None:
    prefill = [
        RankLoad(
            dp_rank=0,
            num_running_reqs=1,
            num_waiting_reqs=3,
            num_waiting_uncached_tokens=500,
            token_usage=0.2,
        ),
        RankLoad(dp_rank=1, token_usage=0.9, max_total_num_tokens=7),
    ]
    decode = [RankLoad(num_running_reqs=5, num_waiting_reqs=4, token_usage=0.6)]
    first, second = joined_loads(prefill, decode)
    assert (first.num_running_reqs, first.num_waiting_reqs) == (2, 3)
    assert (second.num_running_reqs, second.num_waiting_reqs) == (5, 0)
    assert (first.num_waiting_uncached_tokens, first.token_usage) == (500, 0.6)
    assert (second.dp_rank, second.token_usage, second.max_total_num_tokens) == (1, 0.9, 7)
