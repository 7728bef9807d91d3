"""Workloads: their requests and arrivals, and the summary of a run."""

import itertools
import random
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from serval_load.answers import read_stream
from serval_load.client import Raw
from serval_load.programs import DEMO_MODEL
from serval_load.report.page import page, picture, table
from serval_load.report.summary import Objective, summarise
from serval_load.soak import slope_per_hour
from serval_load.statistics import percentile
from serval_load.workloads.arrivals import bursts, poisson, read_arrivals
from serval_load.workloads.driver import Request
from serval_load.workloads.sessions import CONVERSATIONS, LastAnswer, kind_of, words


def request(**given: Any) -> Request:
    values: dict[str, Any] = {
        "kind": "chat", "session": 0, "turn": 0, "at": 0.0, "status": 200, "complete": True, "error": "",
        "first_s": 0.5, "end_s": 1.0, "gaps_s": (0.01, 0.03), "prompt_tokens": 10, "completion_tokens": 3,
        "cached_tokens": 5, "calls": 0, "vanished": False,
    }  # fmt: skip
    return Request(**{**values, **given})


def test_words_are_one_token_each() -> None:
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    assert len(tokenizer.encode(words(random.Random(3), 500)).ids) == pytest.approx(500, abs=2)


def test_agent_prompt_grows_from_4k_to_64k_and_holds_every_call() -> None:
    previous = LastAnswer()
    bodies = []
    for turn in CONVERSATIONS["agent"](random.Random(1), previous):
        bodies.append(turn.body)
        previous.calls = [["read_file", '{"path": "b.py"}']]
    lengths = [
        sum(len((message.get("content") or "").split()) for message in body["messages"]) for body in bodies
    ]
    assert 4000 < lengths[0] < 4300
    assert 65_000 < lengths[-1] < 66_000
    assert lengths == sorted(lengths)
    assert [body["tool_choice"] for body in bodies] == ["required"] * 7 + ["auto"]
    # Each prompt begins with the whole previous one, so that the prefix cache finds it. With tool_choice
    # "none" the model's template would omit the tools at the beginning, and nothing would be found.
    for before, after in itertools.pairwise(bodies):
        assert after["messages"][: len(before["messages"])] == before["messages"]
    calls = [message for message in bodies[-1]["messages"] if "tool_calls" in message]
    assert {call["tool_calls"][0]["function"]["arguments"] for call in calls} == {'{"path": "b.py"}'}


def test_repository_questions_share_their_beginning() -> None:
    first, second = (
        turn.body["messages"][0]["content"]
        for turn in CONVERSATIONS["repository"](random.Random(1), LastAnswer())
    )
    shared = len(first.partition("\n")[0].split())
    assert 100_000 <= shared <= 256_000
    assert second.startswith(first.partition("\n")[0])


def test_poisson_arrivals_have_their_rate_and_bursts_come_together() -> None:
    at = list(poisson(random.Random(1), per_s=10, seconds=200))
    assert len(at) == pytest.approx(2000, rel=0.1)
    assert at == sorted(at)
    together = list(bursts(random.Random(1), per_s=2, seconds=20, every_s=10))
    assert len(together) == 40
    assert max(together[:20]) < 0.1
    assert min(together[20:]) >= 10


def test_read_arrivals_sorts_sessions_and_names_a_bad_line(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"at": 2, "kind": "short"}\n\n{"at": 1.5, "kind": "chat"}\n')
    assert read_arrivals(trace) == [(1.5, "chat"), (2.0, "short")]
    trace.write_text('{"at": 2, "kind": "short"}\n{"kind": "chat"}\n')
    with pytest.raises(ValueError, match=r"trace.jsonl:2: .*wanted"):
        read_arrivals(trace)


def test_mixed_workload_has_all_its_tenants() -> None:
    source = random.Random(1)
    kinds = [kind_of("mixed", source) for _ in range(2000)]
    assert set(kinds) == {"chat", "short", "agent", "repository"}
    assert kinds.count("chat") > 1200


def test_goodput_counts_complete_and_fast_requests() -> None:
    requests = [
        request(),
        request(first_s=3.0),
        request(gaps_s=(0.5,)),
        request(complete=False, status=503, error="full", first_s=None),
        request(complete=False, vanished=True),
    ]
    found = summarise(requests, offered_per_s=5, objective=Objective(first_s=1.0, gap_s=0.1))
    assert (found.complete, found.failed, found.vanished) == (3, 1, 1)
    assert found.goodput_per_s == 1.0
    assert found.cached_share == 0.5
    assert found.errors == {"503 full": 1}


def test_percentiles_are_measured_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [50.0, 99.0, 100.0]
    assert percentile([7.0], 99) == 7.0


def test_slope_is_per_hour() -> None:
    assert slope_per_hour([(0, 1.0), (1800, 2.0), (3600, 3.0)]) == pytest.approx(2.0)
    assert slope_per_hour([(0, 1.0)]) == 0.0


@pytest.mark.parametrize("rates", [1, 3])
def test_reports_escape_text_and_have_a_row_for_each_rate(rates: int) -> None:
    requests = [request(at=number / 10, error="<b>") for number in range(30)]
    failed = request(complete=False, status=500, error="<script>")
    found = [
        summarise([*requests, failed], offered_per_s=rate, objective=Objective())
        for rate in range(1, rates + 1)
    ]
    svg = picture(found, requests)
    ET.fromstring(svg)  # noqa: S314  # our own
    assert table(found).count("\n") == rates + 2
    whole = page(found, requests, title="a <title>", objective=Objective())
    assert "<script>" not in whole
    assert "a &lt;title&gt;" in whole


def test_read_stream_gives_the_same_answer_for_any_cut() -> None:
    data = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        b'5f\r\ndata: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n\r\n'
        b"10\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    )
    for cut in range(1, len(data)):
        raw = Raw(0.0, [(1.0, data[:cut]), (2.0, data[cut:])], closed_at=3.0)
        answer = read_stream(raw)
        assert (answer.text, answer.finish, answer.complete) == ("Hi", "stop", True), cut
    short = Raw(0.0, [(1.0, data[:-5])], closed_at=3.0)
    assert not read_stream(short).complete
