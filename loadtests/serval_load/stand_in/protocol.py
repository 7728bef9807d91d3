"""SGLang 0.5.23's protocol: the request fields that the stand-in reads, and the answers it writes.

Native `/generate` events (`managers/tokenizer_manager.py`) and chunks of `/v1/chat/completions`
(`entrypoints/openai/protocol.py`), field by field.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

Dialect = Literal["native", "openai"]
MODEL = "stand-in"
TOKEN_TEXT = " token"  # noqa: S105  # a word
DONE = b"[DONE]"
STOP = {"type": "stop", "matched": 2}


class _Sampling(msgspec.Struct):
    max_new_tokens: int | None = None
    stop: str | list[str] | None = None
    stream_interval: int | None = None
    structural_tag: str | None = None


class _Native(msgspec.Struct):
    rid: str = ""
    input_ids: list[int] | None = None
    text: str = ""
    sampling_params: _Sampling = msgspec.field(default_factory=_Sampling)
    stream: bool = False
    cache_salt: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _OpenAI(msgspec.Struct):
    messages: msgspec.Raw
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None


_native = msgspec.json.Decoder(_Native)
_openai = msgspec.json.Decoder(_OpenAI)


@dataclass(frozen=True)
class Call:
    """Text of a tool call: before the first token, for each token, after the last."""

    opening: str
    token: str
    closing: str


@dataclass(frozen=True)
class ParsedRequest:
    """A request to either endpoint. `orders` are its stop strings of the form `stand-in:...`."""

    dialect: Dialect
    rid: str
    prompt: list[int]
    stream: bool
    max_tokens: int | None
    stream_interval: int
    orders: tuple[str, ...]
    call: Call | None = None
    # OpenAI's `stream_options.include_usage`.
    usage: bool = False
    salt: str = ""


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    given = [stop] if isinstance(stop, str) else stop or []
    return tuple(text.removeprefix("stand-in:") for text in given if text.startswith("stand-in:"))


def _required_call(tag: str | None) -> Call | None:
    """Call of the grammar's first tool, with its first argument if that is free text, and no others."""
    tags = _tags(None if tag is None else msgspec.json.decode(tag))
    call = next((one for one in tags if one["begin"].startswith("<longcat_tool_call>")), None)
    if call is None:
        return None
    argument = next(_tags(call["content"]), None)
    if argument is not None and argument["content"]["type"] == "any_text":
        return Call(call["begin"] + argument["begin"], TOKEN_TEXT, argument["end"] + call["end"][-1])
    return Call(call["begin"], "", call["end"][-1])


def _tags(form: Any) -> Iterator[dict[str, Any]]:
    """Outermost tags of an xgrammar format, in order."""
    if isinstance(form, dict):
        if form.get("type") == "tag":
            yield form
            return
        form = list(form.values())
    if isinstance(form, list):
        for part in form:
            yield from _tags(part)


def read_native(body: bytes, *, rid: str) -> ParsedRequest:
    """Parse a body of `/generate`; `rid` is the default id. Raises `msgspec.MsgspecError`."""
    given = _native.decode(body)
    sampling = given.sampling_params
    return ParsedRequest(
        dialect="native",
        rid=given.rid or rid,
        prompt=given.input_ids if given.input_ids is not None else [ord(char) for char in given.text],
        stream=given.stream,
        max_tokens=sampling.max_new_tokens,
        stream_interval=sampling.stream_interval or 1,
        orders=_stops(sampling.stop),
        call=_required_call(sampling.structural_tag),
        salt=given.cache_salt or "",
    )


def read_openai(body: bytes, *, rid: str) -> ParsedRequest:
    """Parse a chat request, with one token for every four bytes. Raises `msgspec.MsgspecError`."""
    given = _openai.decode(body)
    text = bytes(given.messages)
    return ParsedRequest(
        dialect="openai",
        rid=rid,
        prompt=[hash(text[place : place + 4]) for place in range(0, len(text), 4)],
        stream=given.stream,
        max_tokens=given.max_completion_tokens or given.max_tokens,
        stream_interval=1,
        orders=_stops(given.stop),
        usage=given.stream_options is not None and given.stream_options.include_usage,
    )


def native_frame(
    rid: str, *, text: str, tokens: int, new: int, prompt: int, cached: int, finish: dict[str, Any] | None
) -> bytes:
    """Event or whole answer of `/generate` with `new` tokens, `tokens` in total."""
    meta = {
        "id": rid,
        "finish_reason": finish,
        "prompt_tokens": prompt,
        "weight_version": "default",
        "total_retractions": 0,
        "completion_tokens": tokens,
        "cached_tokens": cached,
        "cached_tokens_details": None,
        "dp_rank": None,
        "reasoning_tokens": 0,
    }
    ids = [1000 + number % 1000 for number in range(tokens - new, tokens)]
    return json.dumps({"text": text, "output_ids": ids, "meta_info": meta}, separators=(",", ":")).encode()


def aborted_frame(
    rid: str, *, tokens: int, prompt: int, message: str = "Aborted", status: int | None = None
) -> bytes:
    """Last event of an answer that was aborted or ran out of memory."""
    finish = {"type": "abort", "message": message, "status_code": status, "err_type": None}
    return native_frame(rid, text="", tokens=tokens, new=0, prompt=prompt, cached=0, finish=finish)


def openai_chunk(rid: str, *, text: str | None, finish: str | None = None, role: str | None = None) -> bytes:
    """Event of a streamed `/v1/chat/completions`."""
    delta = {"role": role, "content": text, "reasoning_content": None}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "matched_stop": None}
    body = {
        "id": rid, "object": "chat.completion.chunk", "created": 1767225600, "model": MODEL,
        "choices": [choice], "usage": None,
    }  # fmt: skip
    return json.dumps(body, separators=(",", ":")).encode()


def openai_usage_chunk(rid: str, *, prompt: int, tokens: int) -> bytes:
    """Last event of a stream with `include_usage`."""
    body = {
        "id": rid, "object": "chat.completion.chunk", "created": 1767225600, "model": MODEL,
        "choices": [], "usage": _usage(prompt, tokens),
    }  # fmt: skip
    return json.dumps(body, separators=(",", ":")).encode()


def _usage(prompt: int, tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt, "total_tokens": prompt + tokens, "completion_tokens": tokens,
        "prompt_tokens_details": None, "reasoning_tokens": 0,
    }  # fmt: skip


def openai_answer(rid: str, *, text: str, prompt: int, tokens: int, finish: str) -> bytes:
    """Whole answer of `/v1/chat/completions`."""
    message = {"role": "assistant", "content": text, "reasoning_content": None, "tool_calls": None}
    choice = {
        "index": 0, "message": message, "logprobs": None, "finish_reason": finish, "matched_stop": None,
    }  # fmt: skip
    body = {
        "id": rid, "object": "chat.completion", "created": 1767225600, "model": MODEL,
        "choices": [choice], "usage": _usage(prompt, tokens), "metadata": {"weight_version": "default"},
    }  # fmt: skip
    return json.dumps(body, separators=(",", ":")).encode()


def error_body(message: str, code: int) -> bytes:
    """Error object of SGLang, for an event or a whole answer."""
    error = {"message": message, "type": "invalid_request_error", "code": code, "retryable": False}
    return json.dumps({"error": error}).encode()
