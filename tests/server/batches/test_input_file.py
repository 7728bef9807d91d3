"""Lines of input files: their places, and the errors that each kind of bad line is given."""

import io
import json
from typing import Any

import pytest

from serval.batches import input_file
from serval.batches.input_file import InputCheck, lines_of, read_request
from serval.errors import InvalidRequestError

URL = "/v1/completions"


def line(custom_id: str = "a", **changes: Any) -> bytes:
    fields = {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"prompt": "x"}, **changes}
    return json.dumps(fields).encode() + b"\n"


def refuse_seven(body: bytes) -> None:
    if b"7" in body:
        raise InvalidRequestError("No sevens.", param="prompt", code="seven")


def check(content: bytes, *, max_lines: int = 10) -> InputCheck:
    found = InputCheck(URL, refuse_seven, max_lines=max_lines)
    for start, text in lines_of(io.BytesIO(content)):
        found.add(start, text)
        if found.is_over:
            break
    found.finish()
    return found


def test_lines_are_found_by_their_place_in_the_file() -> None:
    content = b"\n" + line("a") + b"  \r\n" + line("b").rstrip()
    found = check(content)
    assert found.errors == []
    assert [start.number for start in found.starts] == [2, 4]
    texts = [content[start.offset : start.offset + start.length] for start in found.starts]
    assert [read_request(text).custom_id for text in texts] == ["a", "b"]


def test_body_is_kept_as_it_was_sent() -> None:
    body = bytes(read_request(b'{"custom_id":"a","method":"POST","url":"","body":{"x": 1.50 }}').body)
    assert body == b'{"x": 1.50 }'


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"{\n", "invalid_json_line", None),
        (b"[]\n", "invalid_line", None),
        (b'"text"\n', "invalid_line", None),
        (b"\xff\n", "invalid_json_line", None),
        (line("a", body=None)[:-1].replace(b'"body"', b'"other"') + b"\n", "invalid_line", None),
        (line("a" * 513), "invalid_custom_id", "custom_id"),
        (line(""), "invalid_custom_id", "custom_id"),
        (line("first"), "duplicate_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/responses"), "mismatched_endpoint", "url"),
        (line(body={"prompt": "7"}), "seven", "body.prompt"),
    ],
)
def test_bad_line_is_named_by_its_number(bad: bytes, code: str, param: str | None) -> None:
    (error,) = check(line("first") + b"\n" + bad + line("last")).errors
    assert (error["line"], error["code"], error["param"]) == (3, code, param)
    assert error["message"]


def test_file_without_lines_is_refused() -> None:
    (error,) = check(b"\n\n").errors
    assert (error["line"], error["code"]) == (None, "empty_file")


def test_file_of_empty_lines_is_not_read_to_its_end() -> None:
    assert check(b"\n" * 3 + line() + b"\n" * 2, max_lines=3).errors == []
    found = check(line() + b"\n" * 1000, max_lines=3)
    assert [(error["line"], error["code"]) for error in found.errors] == [(7, "too_many_lines")]
    assert found.is_over


def test_line_over_the_limit_of_lines_is_refused() -> None:
    lines = b"".join(line(str(number)) for number in range(12, 16))
    assert check(lines, max_lines=4).errors == []
    (error,) = check(lines, max_lines=3).errors
    assert (error["line"], error["code"]) == (4, "too_many_lines")


def test_long_line_is_refused_without_being_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_file, "MAX_LINE_BYTES", 100)
    content = line("a") + line("b", body={"prompt": "x" * 1000}) + line("c")
    file = io.BytesIO(content)
    found = InputCheck(URL, refuse_seven, max_lines=10)
    for start, text in lines_of(file):
        assert len(text) <= 101
        found.add(start, text)
    assert [error["code"] for error in found.errors] == ["line_too_long"]


def test_error_quotes_little_of_a_line() -> None:
    def refuse(body: bytes) -> None:
        raise InvalidRequestError(body.decode(), param=body.decode())

    found = InputCheck(URL, refuse, max_lines=10)
    text = line("a", body={"role": "x" * 100_000})
    found.add(next(lines_of(io.BytesIO(text)))[0], text)
    assert len(json.dumps(found.errors)) < 2000


def test_errors_are_bounded() -> None:
    found = check(b"{\n" * 1000, max_lines=1000)
    assert len(found.errors) == 100
