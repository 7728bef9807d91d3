"""Events of the engine: read the same however they are cut, and strictly."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serval.engine.protocol import GenerationDelta
from serval.engine.sse import EventReader, error_message


def frame(text: str, tokens: int, finish: dict[str, Any] | None = None) -> bytes:
    meta = {
        "id": "x",
        "prompt_tokens": 5,
        "completion_tokens": tokens,
        "cached_tokens": 1,
        "finish_reason": finish,
    }
    return b"data: " + json.dumps({"text": text, "output_ids": [1], "meta_info": meta}).encode() + b"\n\n"


STOP = {"type": "stop", "matched": 2}
DONE = b"data: [DONE]\n\n"


def read(pieces: list[bytes]) -> tuple[EventReader, list[GenerationDelta]]:
    reader = EventReader()
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
        b'data: {"text": 1, "meta_info": {"prompt_tokens": 1, "completion_tokens": 1}}\n\n',
        b'data: {"text": "a", "meta_info": {"prompt_tokens": "1", "completion_tokens": 1}}\n\n',
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


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "why"}}',
        b'{"error": "why"}',
        b'{"object": "error", "message": "why"}',
        b'{"detail": "why"}',
    ],
)
def test_error_message_reads_every_shape_of_error(body: bytes) -> None:
    assert error_message(body) == "why"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"\xff", b'{"error": {"message": 3}}'])
def test_error_without_a_message_is_an_error(body: bytes) -> None:
    assert "no readable reason" in error_message(body)


def delta_of(finish: dict[str, Any] | None, ids: list[int] | None) -> GenerationDelta:
    meta = {"prompt_tokens": 1, "completion_tokens": 3, "finish_reason": finish}
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
