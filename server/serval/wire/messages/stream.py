"""Server-sent events of a streamed answer of the Messages API.

Blocks have indexes from 0, and one is closed before the next is opened.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from serval.wire.chat_response import AnsweredChoice, Usage
from serval.wire.messages.answer import message_object, stop_of, usage_object

_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'

_encode = msgspec.json.Encoder().encode


class EventEncoder:
    """Encodes the events of one answer. Each method returns the events of what it adds, joined."""

    def __init__(self) -> None:
        self._index = -1
        # Type of the open block, and the bytes before and after the text of its deltas.
        self._open: str | None = None
        self._before = self._after = b""

    def begin(self, message_id: str, *, model: str, usage: Usage) -> bytes:
        """Encode the beginning; `usage` is known from the engine's first event on."""
        message = message_object(message_id, model, usage)
        return _event(b"message_start", {"type": "message_start", "message": message}) + _PING

    def text(self, text: str) -> bytes:
        """Encode a piece of the answer's text."""
        if self._open != "text":
            opening = self._opened({"type": "text", "text": ""}, b"text_delta", b"text")
            return opening + self._delta(text)
        return self._delta(text)

    def thinking(self, text: str) -> bytes:
        """Encode a piece of the reasoning."""
        if self._open != "thinking":
            block = {"type": "thinking", "thinking": "", "signature": ""}
            return self._opened(block, b"thinking_delta", b"thinking") + self._delta(text)
        return self._delta(text)

    def tool_use(self, call_id: str, name: str) -> bytes:
        """Encode the start of a call."""
        block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        return self._opened(block, b"input_json_delta", b"partial_json")

    def arguments(self, text: str) -> bytes:
        """Encode a piece of the arguments of the call that was started last."""
        return self._delta(text)

    def end(
        self,
        choice: AnsweredChoice,
        usage: Usage,
        *,
        max_tokens: int,
        context_management: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Encode the end of the answer. See `message_body`."""
        end: dict[str, Any] = {
            "type": "message_delta",
            "delta": stop_of(choice, usage, max_tokens=max_tokens),
            "usage": usage_object(usage),
        }
        if context_management is not None:
            end["context_management"] = context_management
        return self._closed() + _event(b"message_delta", end) + _STOP

    def _delta(self, text: str) -> bytes:
        return b"%b%b%b" % (self._before, _encode(text), self._after)

    def _opened(self, block: dict[str, Any], delta: bytes, field: bytes) -> bytes:
        closed = self._closed()
        self._index += 1
        self._open = block["type"]
        # The common part is encoded once: a stream has one such event for nearly every token.
        self._before = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%b","%b":' % (self._index, delta, field)
        )
        self._after = b"}}\n\n"
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return closed + _event(b"content_block_start", start)

    def _closed(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event(b"content_block_stop", {"type": "content_block_stop", "index": self._index})


def _event(name: bytes, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, _encode(data))
