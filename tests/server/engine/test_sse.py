"""Events of the engine: read the same however they are cut, and strictly."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serval.engine.protocol import GenerationDelta
from serval.engine.sse import MAX_TOKEN_CHARS, EventReader


def frame(text: str, tokens: int, finish: dict[str, Any] | None = None, **fields: Any) -> bytes:
    meta = {
        "id": "x",
        "prompt_tokens": 5,
        "completion_tokens": tokens,
        "cached_tokens": 1,
        "finish_reason": finish,
        **fields,
    }
    return b"data: " + json.dumps({"text": text, "output_ids": [1], "meta_info": meta}).encode() + b"\n\n"


STOP = {"type": "stop", "matched": 2}
DONE = b"data: [DONE]\n\n"


def reader_of(*, max_tokens: int = 10) -> EventReader:
    return EventReader("x", prompt_tokens=5, max_tokens=max_tokens)


def read(pieces: list[bytes]) -> tuple[EventReader, list[GenerationDelta]]:
    reader = reader_of()
    return reader, [delta for piece in pieces if (delta := reader.feed(piece)) is not None]


@given(
    texts=st.lists(st.text(max_size=5), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
def test_event_reader_reads_text_and_counts_however_they_are_cut(texts: list[str], cuts: list[int]) -> None:
    frames = [frame(text, place + 1) for place, text in enumerate(texts)]
    stream = b"".join([*frames, frame("", len(texts) + 1, STOP), DONE])
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader, deltas = read([stream[a:b] for a, b in itertools.pairwise(edges)])
    assert reader.error is None
    assert reader.finished
    assert "".join(delta.text for delta in deltas) == "".join(texts)
    assert deltas[-1].finish == "stop"
    assert deltas[-1].completion_tokens == len(texts) + 1


@pytest.mark.parametrize(
    "bad",
    [
        b"event: x\n\n",
        b"data: {}\n\n",
        b"data: []\n\n",
        b'data: {"text": "a"}\n\n',
        frame(1, 3),  # type: ignore[arg-type]
        frame("a", 3, prompt_tokens="5"),
        b"data: \xff\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        DONE,
        frame("a", 1),  # fewer tokens than before
        frame("a", 9, {"type": "surprise"}),
    ],
)
def test_event_reader_returns_deltas_before_an_error(bad: bytes) -> None:
    reader, (delta,) = read([frame("ok", 2) + bad])
    assert delta.text == "ok"
    assert reader.error is not None
    assert reader.error.status == 502
    assert not reader.finished


def test_event_reader_refuses_events_behind_the_finish() -> None:
    reader, _ = read([frame("a", 1, STOP), frame("b", 2)])
    assert reader.error is not None


LOGPROB = [-1.0, 7, "a"]
UNTRUE: dict[str, dict[str, Any]] = {
    "another request's id": {"id": "y"},
    "an id that begins like this one's": {"id": "x-1"},
    "an empty id": {"id": ""},
    "an id that is a number": {"id": 1},
    "no id": {"id": None},
    "negative prompt": {"prompt_tokens": -1},
    "a longer prompt than was sent": {"prompt_tokens": 6},
    "an absurd prompt": {"prompt_tokens": 10**30},
    "no prompt": {"prompt_tokens": None},
    "negative completion": {"completion_tokens": -1},
    "more completion than was asked for": {"completion_tokens": 11},
    "an absurd completion": {"completion_tokens": 2**63},
    "no completion": {"completion_tokens": None},
    "a fraction": {"completion_tokens": 2.5},
    "negative cache": {"cached_tokens": -1},
    "negative reasoning": {"reasoning_tokens": -1},
    "more log-probabilities than tokens": {"output_token_logprobs": [LOGPROB] * 100},
    "log-probabilities of different lengths": {
        "output_token_logprobs": [LOGPROB],
        "output_top_logprobs": [[LOGPROB], [LOGPROB]],
    },
}


@pytest.mark.parametrize("finish", [None, STOP], ids=["in the middle", "at the end"])
@pytest.mark.parametrize("case", UNTRUE)
def test_event_reader_refuses_what_cannot_be_true(case: str, finish: dict[str, Any] | None) -> None:
    reader, (delta,) = read([frame("ok", 2) + frame("a", 3, finish, **UNTRUE[case])])
    assert delta.text == "ok"
    assert reader.error is not None
    assert reader.error.code == "engine_protocol_error"
    assert not reader.finished


@pytest.mark.parametrize("finish", [None, STOP])
def test_event_reader_ends_an_answer_that_goes_beyond_what_was_asked_for(
    finish: dict[str, Any] | None,
) -> None:
    reader = reader_of(max_tokens=2)
    assert reader.feed(frame("a", 1) + frame("b", 2)) is not None
    reader.feed(frame("c", 3, finish))
    assert reader.error is not None
    assert "more than the 2 tokens" in reader.error.message


def test_event_reader_takes_the_one_token_that_comes_if_none_is_asked_for() -> None:
    reader = reader_of(max_tokens=0)
    assert reader.feed(frame("", 1, {"type": "length"})) is not None
    assert reader.error is None


def test_event_reader_counts_no_more_cached_or_reasoning_tokens_than_there_are() -> None:
    delta = reader_of().feed(frame("a", 3, cached_tokens=6, reasoning_tokens=4))
    assert delta is not None
    assert (delta.cached_tokens, delta.reasoning_tokens) == (5, 3)


def test_event_reader_ends_an_answer_with_more_text_than_tokens() -> None:
    reader = reader_of()
    assert reader.feed(frame("a" * MAX_TOKEN_CHARS, 1)) is not None
    assert reader.error is None
    reader.feed(frame("b", 1))
    assert reader.error is not None


def test_event_reader_ends_an_answer_of_events_without_tokens() -> None:
    reader, fed = reader_of(), 0
    while reader.error is None:
        reader.feed(frame("", 1))
        fed += 1
        assert fed < 1000
    assert reader.error.code == "engine_protocol_error"


ABORTED_IN_THE_QUEUE = {"prompt_tokens": None, "cached_tokens": 0}


@pytest.mark.parametrize(
    ("finish", "code"),
    [
        ({"type": "abort", "message": "Abort in waiting queue"}, "engine_aborted"),
        ({"type": "abort", "message": "The queue is full.", "status_code": 503}, "server_is_overloaded"),
    ],
)
def test_event_reader_reads_an_abort_without_counts(finish: dict[str, Any], code: str) -> None:
    reader = reader_of()
    assert reader.feed(frame("", 0, finish, **ABORTED_IN_THE_QUEUE)) is None
    assert reader.error is not None
    assert reader.error.code == code


def delta_of(finish: dict[str, Any] | None, ids: list[int] | None) -> GenerationDelta:
    meta = {"id": "x", "prompt_tokens": 1, "completion_tokens": 3, "finish_reason": finish}
    content = {"text": "a", "meta_info": meta} | ({} if ids is None else {"output_ids": ids})
    _, (delta,) = read([b"data: " + json.dumps(content).encode() + b"\n\n"])
    return delta


@pytest.mark.parametrize(
    ("finish", "ids", "stop_string"),
    [
        (None, [7, 8, 2], None),
        ({"type": "length", "length": 3}, [7, 8, 2], None),
        (STOP, [7, 8], None),  # the token that ended the turn is no part of the text
        ({"type": "stop", "matched": [2]}, [7, 8], None),
        ({"type": "stop", "matched": "END"}, [7, 8, 2], "END"),
        ({"type": "stop", "matched": None}, [7, 8, 2], None),
    ],
)
def test_event_reader_tells_what_ended_the_answer(
    finish: dict[str, Any] | None, ids: list[int], stop_string: str | None
) -> None:
    delta = delta_of(finish, [7, 8, 2])
    assert (delta.token_ids, delta.stop_string) == (ids, stop_string)


def test_event_reader_joins_token_ids() -> None:
    _, (delta,) = read([frame("a", 1) + frame("b", 2)])
    assert delta.token_ids == [1, 1]
    assert delta_of(None, None).token_ids is None
