"""The file of requests and answers."""

from pathlib import Path

import pytest

from serval.evaluation.error import EvaluationError
from serval.evaluation.recording import Exchange, Recording

PATH = "/v1/chat/completions"


def exchange(request: dict[str, object], answer: str) -> Exchange:
    return Exchange(path=PATH, request=request, status=200, answer=answer, began=0, seconds=0)


def test_recording_gives_equal_requests_their_answers_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    recording = Recording(file)
    for answer in ("first", "second"):
        recording.add(exchange({"a": 1, "b": 2}, answer))
    # Its own answers are for the next run: a harness that asks twice wants two.
    assert recording.take(PATH, {"a": 1, "b": 2}) is None
    recording.close()
    again = Recording(file)
    found = [again.take(PATH, {"b": 2, "a": 1}) for _ in range(3)]
    assert [each and each.answer for each in found] == ["first", "second", None]
    assert again.take(PATH, {"a": 1}) is None
    assert again.take("/v1/completions", {"a": 1, "b": 2}) is None
    again.close()


def test_recording_cuts_off_an_unfinished_line(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    recording = Recording(file)
    recording.add(exchange({"a": 1}, "whole"))
    recording.close()
    with file.open("ab") as stream:
        stream.write(b'{"path": "/v1')
    again = Recording(file)
    again.add(exchange({"a": 2}, "next"))
    again.close()
    last = Recording(file)
    assert [each.answer for each in last.exchanges] == ["whole", "next"]
    last.close()


def test_recording_names_a_damaged_line(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text('{"path": 1}\n')
    with pytest.raises(EvaluationError, match="line 1 of"):
        Recording(file)
