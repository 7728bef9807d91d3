from typing import Any

import msgspec
import pytest

from serval.wire.chat_decode import decode_chat_request
from serval.wire.kept_bytes import kept_bytes

LONG = "x" * 10_000
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": LONG}}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "r"}
HI = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"messages": [{"role": "user", "content": LONG}]}, True),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]}, True),
        ({"messages": [HI, {"role": "assistant", "tool_calls": [CALL]}, RESULT]}, True),
        ({"tools": [{"type": "function", "function": {"name": "f", "description": LONG}}]}, True),
        ({"functions": [{"name": "f", "description": LONG}]}, True),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"x": LONG}}}},
            True,
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": LONG}]}]}, False),
        ({"unknown": LONG}, False),
    ],
)
def test_kept_bytes_counts_what_was_decoded(fields: dict[str, Any], kept: bool) -> None:
    body = msgspec.json.encode({"model": "m", "messages": [HI], **fields})
    request = decode_chat_request(body, max_choices=1, strict=False, non_text_parts="omit")
    assert (kept_bytes(request) >= 10_000) is kept
