"""Parse the raw answers of `serval_load.client`: status, content, and the arrival time of each piece."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import msgspec

from serval_load.client import Raw

_DATA = b"data: "


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function
    index: int = 0
    id: str | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_Chunk)


@dataclass
class Answer:
    """One streamed answer. Times are seconds after the request was sent, None for what never arrived."""

    status: int
    first_s: float | None = None
    # Arrival of each event with text or a piece of a call.
    times_s: list[float] = field(default_factory=list)
    end_s: float = 0.0
    # Content, without reasoning.
    text: str = ""
    # Name and arguments of each call.
    calls: list[list[str]] = field(default_factory=list)
    finish: str | None = None
    # `data: [DONE]` was the last event.
    done: bool = False
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def complete(self) -> bool:
        """True if the client received all of it."""
        return self.status == 200 and self.done and self.finish is not None and not self.error

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between one piece and the next."""
        return [later - earlier for earlier, later in itertools.pairwise(self.times_s)]


def read_stream(raw: Raw) -> Answer:
    """Parse as much of the answer as arrived. A body that is no event stream becomes the error text."""
    head, found, _ = raw.data.partition(b"\r\n\r\n")
    if not found:
        return Answer(
            status=0, error=raw.failure or "closed without an answer", end_s=raw.closed_at - raw.sent_at
        )
    answer = Answer(status=int(head.split(b" ", 2)[1]), end_s=raw.closed_at - raw.sent_at, error=raw.failure)
    chunked = b"transfer-encoding: chunked" in head.lower()
    if b"text/event-stream" not in head.lower():
        answer.error = raw.data[len(head) + 4 :].decode(errors="replace")
        return answer
    skip = len(head) + 4
    body = b""
    for at, piece in raw.pieces:
        if skip:
            piece, skip = piece[skip:], max(skip - len(piece), 0)  # noqa: PLW2901  # skip the headers
        body += piece
        *lines, body = body.split(b"\n")
        for line in lines:
            # Lines between events are sizes of HTTP chunks.
            if line.startswith(_DATA):
                _apply_event(answer, line[len(_DATA) :].rstrip(), at - raw.sent_at)
    if chunked and not raw.data.endswith(b"0\r\n\r\n") and not answer.error:
        answer.error = "the connection closed in the middle of the answer"
    return answer


def _apply_event(answer: Answer, payload: bytes, at_s: float) -> None:
    if payload == b"[DONE]":
        answer.done = True
        return
    chunk = _decoder.decode(payload)
    if chunk.error is not None:
        answer.error = str(chunk.error.get("message"))
    if chunk.usage is not None:
        answer.prompt_tokens = chunk.usage.prompt_tokens
        answer.completion_tokens = chunk.usage.completion_tokens
        answer.cached_tokens = (chunk.usage.prompt_tokens_details or {}).get("cached_tokens") or 0
    for choice in chunk.choices:
        answer.finish = choice.finish_reason or answer.finish
        if _apply_delta(answer, choice.delta):
            answer.times_s.append(at_s)
            if answer.first_s is None:
                answer.first_s = at_s


def _apply_delta(answer: Answer, delta: _Delta) -> bool:
    answer.text += delta.content or ""
    for call in delta.tool_calls or []:
        while len(answer.calls) <= call.index:
            answer.calls.append(["", ""])
        answer.calls[call.index][0] += call.function.name or ""
        answer.calls[call.index][1] += call.function.arguments or ""
    return bool(delta.content or delta.reasoning_content or delta.tool_calls)
