"""The gateway's log line of each request, as written."""

import json
from typing import Any

import pytest

from serval.telemetry.logs import JsonFormatter


def request_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the lines so far, decoded from JSON."""
    formatter = JsonFormatter()
    return [
        json.loads(formatter.format(entry)) for entry in caplog.records if entry.name == "serval.requests"
    ]
