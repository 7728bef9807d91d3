"""Answer of `POST /v1/chat/completions` as bytes, whole or in stream chunks."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from serval.errors import ApiError, error_object

FinishReason = Literal["stop", "length", "tool_calls"]
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"

_encode = msgspec.json.Encoder().encode


class Usage(Struct, frozen=True):
    """Token counts as the engine reports them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class AnsweredCall(Struct, frozen=True):
    """A tool call of the answer; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str = ""


class AnsweredChoice(Struct, frozen=True):
    """One choice of an answer."""

    index: int
    finish_reason: FinishReason
    content: str = ""
    reasoning: str = ""
    tool_calls: Sequence[AnsweredCall] = ()
    logprobs: Sequence[Mapping[str, Any]] | None = None
    # Stop string that ended the text.
    stop_string: str | None = None
    # The text ended inside the last call, whose arguments are not JSON.
    cut_call: bool = False


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's usage object, always with details."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def completion_body(
    completion_id: str,
    *,
    created: int,
    model: str,
    choices: Sequence[Mapping[str, Any]],
    usage: Usage,
    service_tier: str | None = None,
) -> bytes:
    """Encode the `chat.completion` object; `choices` are results of `choice_object`."""
    body = {
        "id": completion_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage_object(usage),
        "system_fingerprint": None,
    }
    return _encode(body if service_tier is None else body | {"service_tier": service_tier})


def choice_object(choice: AnsweredChoice) -> dict[str, Any]:
    """Return a choice of a whole answer."""
    message: dict[str, Any] = {
        "role": "assistant",
        # null, not "": clients read null as "only calls".
        "content": None if choice.tool_calls and not choice.content.strip() else choice.content,
        "refusal": None,
    }
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.tool_calls
        ]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": _logprobs_object(choice.logprobs),
        "finish_reason": choice.finish_reason,
    }


def _logprobs_object(logprobs: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
    return None if logprobs is None else {"content": list(logprobs), "refusal": None}


class ChunkEncoder:
    """Encodes the server-sent events of one streamed answer. Every method returns one whole event."""

    def __init__(
        self,
        completion_id: str,
        *,
        created: int,
        model: str,
        include_usage: bool,
        service_tier: str | None = None,
    ) -> None:
        head = {"id": completion_id, "object": "chat.completion.chunk", "created": created, "model": model}
        if service_tier is not None:
            head["service_tier"] = service_tier
        # The common part is encoded once: a stream has one chunk for nearly every token.
        self._head = b"data: " + _encode(head)[:-1] + b',"system_fingerprint":null,"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        # Bytes before and after the text of a piece, by choice.
        self._around: dict[int, tuple[bytes, bytes]] = {}

    def _chunk(
        self,
        index: int,
        delta: bytes,
        *,
        finish_reason: bytes = b"null",
        logprobs: Sequence[Mapping[str, Any]] | None = None,
    ) -> bytes:
        logprobs_json = b"null" if logprobs is None else _encode(_logprobs_object(logprobs))
        return b"".join(
            (
                self._head, b'{"index":%d,"delta":' % index, delta, b',"logprobs":', logprobs_json,
                b',"finish_reason":', finish_reason, b"}", self._tail,
            )
        )  # fmt: skip

    def role(self, index: int) -> bytes:
        """Encode the first chunk of a choice."""
        return self._chunk(index, b'{"role":"assistant","content":"","refusal":null}')

    def content(self, index: int, text: str, *, logprobs: Sequence[Mapping[str, Any]] | None = None) -> bytes:
        """Encode a piece of the answer's text."""
        if logprobs is not None:
            return self._chunk(index, b'{"content":' + _encode(text) + b"}", logprobs=logprobs)
        around = self._around.get(index)
        if around is None:
            # JSON contains no zero byte.
            before, _, after = self._chunk(index, b'{"content":\0}').partition(b"\0")
            around = self._around[index] = before, after
        return b"%b%b%b" % (around[0], _encode(text), around[1])

    def reasoning(self, index: int, text: str) -> bytes:
        """Encode a piece of the reasoning."""
        return self._chunk(index, b'{"reasoning_content":' + _encode(text) + b"}")

    def tool_call(self, index: int, *, call: int, call_id: str, name: str) -> bytes:
        """Encode the start of a tool call; `call` is its ordinal in the choice."""
        function = {"name": name, "arguments": ""}
        start = {"index": call, "id": call_id, "type": "function", "function": function}
        return self._chunk(index, _encode({"tool_calls": [start]}))

    def arguments(self, index: int, *, call: int, text: str) -> bytes:
        """Encode a piece of a tool call's arguments."""
        return self._chunk(
            index,
            b'{"tool_calls":[{"index":%d,"function":{"arguments":' % call + _encode(text) + b"}}]}",
        )

    def finish(
        self, index: int, reason: FinishReason, *, logprobs: Sequence[Mapping[str, Any]] | None = None
    ) -> bytes:
        """Encode the last chunk of a choice."""
        return self._chunk(index, b"{}", finish_reason=b'"%s"' % reason.encode(), logprobs=logprobs)

    def usage(self, usage: Usage) -> bytes:
        """Encode the chunk that holds the usage and no choices; sent only on request."""
        return self._head + b'],"usage":' + _encode(usage_object(usage)) + b"}\n\n"


def error_event(error: ApiError) -> bytes:
    """Encode an error in a stream that has begun. No `[DONE]` may follow it.

    The stream's own status was sent long ago, so the message names that of a server error: agents such as pi
    and opencode try again if they find it, or the words `server error`, and end the session if not.
    """
    described = error_object(error)
    if error.status >= 500:
        described["error"]["message"] = f"Server error {error.status}: {error.message}"
    return b"data: " + _encode(described) + b"\n\n"
