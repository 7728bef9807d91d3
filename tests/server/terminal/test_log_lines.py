"""Lines of the gateway's JSON log in words."""

import json
from typing import Any

import pytest

from serval.telemetry.logs import JsonFormatter, RequestEntry
from serval.telemetry.record import RequestRecord
from serval.terminal.log_lines import readable

REQUEST = {
    "time": "2026-11-29T16:39:47.215Z",
    "level": "info",
    "logger": "serval.requests",
    "event": "request",
    "method": "POST",
    "route": "/v1/chat/completions",
    "status": 200,
    "client_gone": False,
    "duration_ms": 1240.2,
    "first_token_ms": 310.0,
    "prompt_tokens": 1034,
    "completion_tokens": 51,
    "cached_tokens": 1000,
    "finish_reason": "stop",
    "error_code": None,
}


def words(**changes: Any) -> str | None:
    text = readable(json.dumps(REQUEST | changes))
    return None if text is None else text.plain


def test_readable_request() -> None:
    line = words()
    assert line is not None
    assert line[2] == line[5] == ":"
    assert line[10:] == (
        "200  POST /v1/chat/completions  1.24 s, first token 0.31 s, 1,034 → 51 tokens, 1,000 cached, stop"
    )


def test_readable_refused_request_names_the_error() -> None:
    refused = {"status": 401, "error_code": "invalid_api_key", "prompt_tokens": 0, "cached_tokens": 0}
    line = words(**refused, first_token_ms=None, finish_reason=None, duration_ms=0.4)
    assert line is not None
    assert line[10:] == "401  POST /v1/chat/completions  0.00 s, invalid_api_key"


def test_readable_request_of_a_client_that_left() -> None:
    line = words(client_gone=True, status=None)
    assert line is not None
    assert line[10:].startswith("gone POST")


@pytest.mark.parametrize("route", ["/healthz", "/readyz", "/metrics"])
def test_readable_leaves_out_probes(route: str) -> None:
    assert words(route=route) is None


def test_readable_reads_what_the_gateway_writes() -> None:
    """The formatter's own line of a request without any optional field."""
    line = JsonFormatter().format(RequestEntry(RequestRecord(request_id="r", method="GET", route="/")))
    assert readable(line) is not None


def test_readable_shows_warnings_with_their_fields_and_leaves_out_news() -> None:
    entry = {
        "time": "2026-11-29T16:39:47.215Z",
        "level": "warning",
        "logger": "serval",
        "event": "slow",
        "n": 3,
    }
    text = readable(json.dumps(entry))
    assert text is not None
    assert text.plain.endswith("  slow  n=3")
    assert readable(json.dumps(entry | {"level": "info"})) is None


@pytest.mark.parametrize("line", ["Traceback (most recent call last):", "[1, 2]", "{", ""])
def test_readable_passes_on_lines_that_are_no_log_entry(line: str) -> None:
    text = readable(line)
    assert text is not None
    assert text.plain == line
