"""Encoding of answers of Chat Completions, beyond what `tests/server/api/test_chat.py` sees."""

import json

import pytest

from serval.errors import ApiError, AuthenticationError, EngineFailureError, EngineStreamBrokenError
from serval.wire.chat_response import error_event


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (EngineFailureError("It failed."), "Server error 500: It failed."),
        (EngineStreamBrokenError("It broke."), "Server error 502: It broke."),
        (AuthenticationError("The key is revoked."), "The key is revoked."),
    ],
)
def test_error_event_names_the_status_of_a_server_error(error: ApiError, message: str) -> None:
    event = error_event(error)
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    described = json.loads(event[len(b"data: ") :])["error"]
    assert described == {"message": message, "type": error.type, "param": None, "code": error.code}
