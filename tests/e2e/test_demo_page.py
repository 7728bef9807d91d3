"""The demo model's page states what becomes of a request for JSON."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "model_adapter/serval_sglang/demo/README.md").read_text()


def answer(server: Any, body: dict[str, Any]) -> tuple[str, str]:
    """The content of an answer, and why it ended."""
    headers = {"authorization": f"Bearer {server.api_key}"}
    response = httpx.post(f"{server.base_url}/chat/completions", json=body, headers=headers, timeout=120)
    choice = response.raise_for_status().json()["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def test_demo_page_schema_of_answers_ends_in_time(server: Any) -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    content, reason = answer(server, json.loads(blocks[0]))
    assert reason == "stop"
    assert f"The content of the answer is `{content}`" in PAGE


def test_demo_page_free_json_ends_at_the_limit(server: Any) -> None:
    body = {
        "model": "longcat-flash-lite-demo",
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of Italy?"}],
        "response_format": {"type": "json_object"},
        "max_completion_tokens": 60,
    }
    content, reason = answer(server, body)
    assert reason == "length"
    assert content.lstrip().startswith("{")
