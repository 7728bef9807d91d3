"""Answer of `POST /v1/completions` as bytes, whole or in stream chunks."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from serval.engine.protocol import EngineFinish, TokenLogprob
from serval.wire.chat_response import Usage, usage_object

_encode = msgspec.json.Encoder().encode


def text_completion_body(
    completion_id: str, *, created: int, model: str, choices: Sequence[Mapping[str, Any]], usage: Usage
) -> bytes:
    """Encode the `text_completion` object."""
    return _encode(
        {
            "id": completion_id,
            "object": "text_completion",
            "created": created,
            "model": model,
            "choices": choices,
            "usage": usage_object(usage),
            "system_fingerprint": None,
        }
    )


def text_choice_object(
    index: int, text: str, *, logprobs: Mapping[str, Any] | None, finish_reason: EngineFinish | None
) -> dict[str, Any]:
    """Return a choice of a whole answer or of a chunk."""
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


class TextOffsets:
    """Finds the place of each token in an answer's text, in characters."""

    def __init__(self, start: int) -> None:
        """`start`: characters before the first token."""
        self._characters = start
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, logprob: TokenLogprob) -> int:
        """Return the place of the next token: that of the character that its first byte belongs to."""
        data = logprob.text.encode() if logprob.data is None else logprob.data
        place = self._characters
        if self._decoder.getstate()[0] and data and data[0] & 0xC0 != 0x80:
            place += 1  # after a character that stays incomplete
        self._characters += len(self._decoder.decode(data))
        return place


def text_logprobs_object(logprobs: Sequence[TokenLogprob], offsets: TextOffsets) -> dict[str, Any]:
    """Return log-probabilities in this endpoint's form; `offsets` continues after earlier tokens."""
    return {
        "tokens": [logprob.text for logprob in logprobs],
        "token_logprobs": [logprob.logprob for logprob in logprobs],
        "top_logprobs": [
            # Like OpenAI, include the token itself even if it was not among the most likely ones.
            None
            if logprob.logprob is None
            else {top.text: top.logprob for top in logprob.top} | {logprob.text: logprob.logprob}
            for logprob in logprobs
        ],
        "text_offset": [offsets.add(logprob) for logprob in logprobs],
    }


class TextChunkEncoder:
    """Encodes the server-sent events of one streamed answer. Every method returns one whole event."""

    def __init__(self, completion_id: str, *, created: int, model: str, include_usage: bool) -> None:
        head = {"id": completion_id, "object": "text_completion", "created": created, "model": model}
        # The common part is encoded once: a stream has one chunk for nearly every token.
        self._head = b"data: " + _encode(head)[:-1] + b',"system_fingerprint":null,"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def text(
        self,
        index: int,
        text: str,
        *,
        logprobs: Mapping[str, Any] | None = None,
        finish_reason: EngineFinish | None = None,
    ) -> bytes:
        """Encode a piece of a choice's text; the last one has the finish reason."""
        choice = text_choice_object(index, text, logprobs=logprobs, finish_reason=finish_reason)
        return self._head + _encode(choice) + self._tail

    def usage(self, usage: Usage) -> bytes:
        """Encode the chunk that holds the usage and no choices; sent only on request."""
        return self._head + b'],"usage":' + _encode(usage_object(usage)) + b"}\n\n"
