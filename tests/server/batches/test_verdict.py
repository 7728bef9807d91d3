"""Answers to lines: which are results, and when others are run again."""

import json
from typing import Any

import pytest

from serval.batches.verdict import MOST_ATTEMPTS, Answer, Retry, result_of, retry_of, unexecuted_line
from serval.store.batch_lines import Line

LINE = Line(3, 0, 9, 0, "batch_1", "a", "{}", "/v1/responses", "file-1")


def answer(status: int, body: Any = None, **headers: str) -> Answer:
    content = {"error": {"code": "x"}} if body is None else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, "req_1", named, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("given", "attempts", "expected"),
    [
        (answer(200, {}), 0, None),
        (answer(400), 0, None),
        (answer(401), 0, None),
        (answer(404), 0, None),
        (answer(429, retry_after="2", retry_after_ms="1500"), 0, Retry("caller", 1.5)),
        (answer(429, retry_after_ms="0"), 0, Retry("caller", 0.1)),
        # The budget of the day: asked again each minute, as an operator may raise it.
        (answer(429, {"error": {"code": "insufficient_quota"}}, retry_after="40000"), 9, Retry("caller", 60)),
        (answer(503, retry_after="3"), 9, Retry("server", 3.0)),
        (answer(503), 0, Retry("server", 0.5)),
        (answer(503, retry_after="600"), 0, Retry("server", 5.0)),
        (answer(503, {"error": {"code": "shutting_down"}}), 0, Retry("stop")),
        (answer(500), 0, Retry("line", 1.0)),
        (answer(502), MOST_ATTEMPTS - 2, Retry("line", 1.0)),
        (answer(502), MOST_ATTEMPTS - 1, None),
        (answer(504), MOST_ATTEMPTS, None),
    ],
)
def test_retry_depends_on_whose_fault_it_is(given: Answer, attempts: int, expected: Retry | None) -> None:
    assert retry_of(given, attempts) == expected


@pytest.mark.parametrize(
    "usage",
    [
        {
            "prompt_tokens": 5,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        {
            "input_tokens": 5,
            "output_tokens": 7,
            "input_tokens_details": {"cached_tokens": 2},
            "output_tokens_details": {"reasoning_tokens": 3},
        },
    ],
)
def test_result_has_the_tokens_of_both_forms(usage: dict[str, Any]) -> None:
    result = result_of(LINE, "mine", answer(200, {"usage": usage, "choices": []}))
    assert result[:3] == ("batch_1", 3, False)
    assert result[4:] == (5, 2, 7, 3)
    line = json.loads(result.text)
    assert line.pop("id").startswith("batch_req_")
    assert line == {
        "custom_id": "mine",
        "response": {"status_code": 200, "request_id": "req_1", "body": {"usage": usage, "choices": []}},
        "error": None,
    }


def test_error_is_a_failed_result_without_tokens() -> None:
    result = result_of(LINE, "mine", answer(400))
    assert result.failed
    assert result.output_tokens == 0
    assert json.loads(result.text)["response"]["status_code"] == 400


@pytest.mark.parametrize(("cancelled", "code"), [(True, "batch_cancelled"), (False, "batch_expired")])
def test_line_that_was_not_run_says_why(cancelled: bool, code: str) -> None:
    line = json.loads(unexecuted_line("mine", cancelled=cancelled))
    assert (line["custom_id"], line["response"], line["error"]["code"]) == ("mine", None, code)
