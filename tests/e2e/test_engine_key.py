"""The engine's own key, which `SERVAL_ENGINE_API_KEY` gives to engine and gateway."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from serval_testkit.processes import descendants

pytestmark = pytest.mark.engine

BODY = {"input_ids": [5], "sampling_params": {"max_new_tokens": 1}}


def test_engine_answers_requests_with_its_key_only(server: Any, engine_key: str) -> None:
    """Also those for administration, such as new weights; probes and scrapes need no key."""
    for path in ("/generate", "/update_weights_from_disk", "/abort_request", "/flush_cache"):
        assert httpx.post(server.engine_url + path, json=BODY, timeout=60).status_code == 401, path
    wrong = {"authorization": "Bearer another"}
    assert httpx.get(f"{server.engine_url}/server_info", headers=wrong, timeout=60).status_code == 401
    headers = {"authorization": f"Bearer {engine_key}"}
    answer = httpx.post(f"{server.engine_url}/generate", json=BODY, headers=headers, timeout=60)
    assert answer.status_code == 200
    for path in ("/ready", "/health", "/metrics"):
        assert httpx.get(server.engine_url + path, timeout=60).status_code == 200, path


def test_engine_key_is_in_no_log_and_no_command_line(server: Any, engine_key: str) -> None:
    assert "api_key" in server.program.output  # SGLang logs its arguments
    assert engine_key not in server.program.output
    for pid in descendants(server.program.process.pid):
        assert engine_key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
