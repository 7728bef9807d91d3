"""Server-sent events of SGLang's `/generate`, parsed strictly.

SGLang 0.5.23 sends `data: {"text", "output_ids", "meta_info"}`; with `--incremental-streaming-output`, `text`
holds only the new text. A failure after the headers is `data: {"error": {...}}` or a finish reason of type
`abort`, and in both cases `data: [DONE]` follows as after a success (`entrypoints/http_server.py`,
`serve_generate_request`). An answer is complete only if a finish reason was seen.

Nothing that an engine sends is taken on trust: an answer belongs to the request whose id it has, and its
counts and its size are within what the request asked for.
"""

import logging
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from serval.engine.protocol import EngineFinish, GenerationDelta, TokenLogprob
from serval.engine.refusal import engine_error
from serval.errors import ApiError, EngineProtocolError

logger = logging.getLogger(__name__)

_SEPARATOR = b"\n\n"
_DATA = b"data: "
_DONE = b"[DONE]"
MAX_FRAME_BYTES = 16 << 20
# Characters of the longest token, with room to spare: tokens of vocabularies have up to some hundred.
MAX_TOKEN_CHARS = 4096
# Events without a new token, and log-probabilities beyond the tokens, that an answer may have.
_MAX_SURPLUS = 64

_Count = Annotated[int, Meta(ge=0)]

# [log-probability, token id, text]
_Logprob = tuple[float | None, int, str | None]


class _Finish(Struct):
    type: str
    message: str | None = None
    status_code: int | None = None
    # For type stop: the token id or ids, or the text, that ended the answer.
    matched: int | list[int] | str | None = None


class _MetaInfo(Struct):
    # Id of the request that is answered.
    id: str
    # The event of a request that was aborted while it waited has no prompt tokens.
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    finish_reason: _Finish | None = None
    cached_tokens: _Count = 0
    reasoning_tokens: _Count | None = 0
    output_token_logprobs: list[_Logprob] | None = None
    output_top_logprobs: list[list[_Logprob] | None] | None = None
    # Log-probabilities of the prompt's tokens, which each event repeats, so they are decoded once.
    input_token_logprobs: msgspec.Raw = msgspec.Raw()
    input_top_logprobs: msgspec.Raw = msgspec.Raw()


class _Error(Struct):
    message: str = "no reason given"
    code: int | None = None


class _Frame(Struct):
    text: str | None = None
    output_ids: list[int] | None = None
    meta_info: _MetaInfo | None = None
    error: _Error | None = None


_decoder = msgspec.json.Decoder(_Frame)
_prompt_decoder = msgspec.json.Decoder(list[_Logprob])
_prompt_top_decoder = msgspec.json.Decoder(list[list[_Logprob] | None])


class EventReader:
    """Parses the bytes of one answer, in pieces of any size, into deltas."""

    __slots__ = (
        "_buffer",
        "_chars",
        "_completion_tokens",
        "_empty_events",
        "_logprobs",
        "_max_tokens",
        "_prompt_logprobs_wanted",
        "_prompt_tokens",
        "_request_id",
        "error",
        "finished",
    )

    def __init__(
        self, request_id: str, *, prompt_tokens: int, max_tokens: int, prompt_logprobs: bool = False
    ) -> None:
        """The request had this id and prompt, and asked for at most `max_tokens` tokens.

        `prompt_logprobs`: it asked for those of its prompt.
        """
        self._request_id = request_id
        self._prompt_tokens = prompt_tokens
        self._prompt_logprobs_wanted = prompt_logprobs
        # SGLang writes one token even if it is asked for none.
        self._max_tokens = max(1, max_tokens)
        self._buffer = b""
        self._completion_tokens = 0
        self._chars = 0
        self._logprobs = 0
        self._empty_events = 0
        self.finished = False
        # Error that followed the last delta.
        self.error: ApiError | None = None

    def feed(self, data: bytes) -> GenerationDelta | None:
        """Parse `data`. Return the events that it completes as one delta, or None.

        Sets `error` if an error follows the returned delta; nothing more can be read then.
        """
        *events, self._buffer = (self._buffer + data if self._buffer else data).split(_SEPARATOR)
        deltas: list[GenerationDelta] = []
        try:
            for event in events:
                delta = self._event(event)
                if delta is not None:
                    deltas.append(delta)
            if len(self._buffer) > MAX_FRAME_BYTES:
                raise EngineProtocolError(f"The engine sent an event of more than {MAX_FRAME_BYTES} bytes.")
        except ApiError as error:
            self.error = error
        return _joined(deltas)

    def _event(self, event: bytes) -> GenerationDelta | None:
        if not event.startswith(_DATA):
            raise EngineProtocolError("The engine sent an event that is not of the form 'data: ...'.")
        payload = event[len(_DATA) :]
        if payload == _DONE:
            if not self.finished:
                raise EngineProtocolError("The engine ended its answer without a finish reason.")
            return None
        if self.finished:
            raise EngineProtocolError("The engine went on after it gave a finish reason.")
        try:
            frame = _decoder.decode(payload)
            prompt = self._prompt_logprobs(frame.meta_info)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise EngineProtocolError(f"The engine sent an event that cannot be read: {error}.") from error
        if frame.error is not None:
            raise engine_error(frame.error.code or 400, frame.error.message, request_id=self._request_id)
        if frame.meta_info is None or frame.text is None:
            raise EngineProtocolError("The engine sent an event without 'text' or 'meta_info'.")
        if frame.meta_info.id != self._request_id:
            logger.error("engine answered %s with an event of another request", self._request_id)
            raise EngineProtocolError("The engine answered another request than this one.")
        return self._delta(frame.text, frame.output_ids, frame.meta_info, prompt)

    def _prompt_logprobs(self, meta: _MetaInfo | None) -> tuple[TokenLogprob, ...]:
        if meta is None or not self._prompt_logprobs_wanted or not meta.input_token_logprobs:
            return ()
        tokens = _prompt_decoder.decode(meta.input_token_logprobs)
        if not tokens:
            return ()
        self._prompt_logprobs_wanted = False
        tops = _prompt_top_decoder.decode(meta.input_top_logprobs) if meta.input_top_logprobs else None
        first, *others = _token_logprobs(tokens, tops)
        return (replace(first, logprob=None), *others)

    def _delta(
        self,
        text: str,
        token_ids: list[int] | None,
        meta: _MetaInfo,
        prompt_logprobs: tuple[TokenLogprob, ...],
    ) -> GenerationDelta:
        finish = self._finish(meta.finish_reason)
        prompt_tokens, completion_tokens = meta.prompt_tokens, meta.completion_tokens
        if prompt_tokens is None or completion_tokens is None:
            raise EngineProtocolError("The engine sent an event without its counts of tokens.")
        logprobs, end_logprob = _logprobs(meta)
        self._check_counts(prompt_tokens, completion_tokens)
        self._check_size(completion_tokens, text, meta.output_token_logprobs)
        self._completion_tokens = completion_tokens
        self.finished = finish is not None
        matched = None if meta.finish_reason is None else meta.finish_reason.matched
        return GenerationDelta(
            text=text,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            # A request that the engine put back also finds its own answer in the cache.
            cached_tokens=min(meta.cached_tokens, prompt_tokens),
            reasoning_tokens=min(meta.reasoning_tokens or 0, completion_tokens),
            finish=finish,
            stop_string=matched if isinstance(matched, str) else None,
            token_ids=token_ids[:-1] if token_ids and _ended_by_token(meta) else token_ids,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            end_logprob=end_logprob,
        )

    def _check_counts(self, prompt_tokens: int, completion_tokens: int) -> None:
        if completion_tokens < self._completion_tokens:
            raise EngineProtocolError("The engine's count of completion tokens went down.")
        if completion_tokens > self._max_tokens:
            raise EngineProtocolError(f"The engine wrote more than the {self._max_tokens} tokens asked for.")
        if prompt_tokens > self._prompt_tokens:
            raise EngineProtocolError("The engine counts more prompt tokens than it was sent.")

    def _check_size(self, completion_tokens: int, text: str, logprobs: list[_Logprob] | None) -> None:
        """Refuse more text, log-probabilities or events than there are tokens."""
        self._chars += len(text)
        if logprobs:
            self._logprobs += len(logprobs)
        if completion_tokens == self._completion_tokens:
            self._empty_events += 1
        if (
            self._chars > completion_tokens * MAX_TOKEN_CHARS
            or self._logprobs > completion_tokens + _MAX_SURPLUS
            or self._empty_events > _MAX_SURPLUS
        ):
            raise EngineProtocolError("The engine wrote more than the tokens that it counted.")

    def _finish(self, reason: _Finish | None) -> EngineFinish | None:
        if reason is None:
            return None
        if reason.type == "stop":
            return "stop"
        if reason.type == "length":
            return "length"
        if reason.type == "abort":
            message = reason.message or "aborted"
            raise engine_error(reason.status_code, message, request_id=self._request_id)
        raise EngineProtocolError("The engine finished for a reason that is not known.")


def _joined(deltas: list[GenerationDelta]) -> GenerationDelta | None:
    if len(deltas) <= 1:
        return deltas[0] if deltas else None
    return replace(
        deltas[-1],
        text="".join(delta.text for delta in deltas),
        token_ids=_joined_ids(deltas),
        logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
        prompt_logprobs=next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs), ()),
    )


def _joined_ids(deltas: list[GenerationDelta]) -> list[int] | None:
    joined: list[int] = []
    for delta in deltas:
        if delta.token_ids is None:
            return None
        joined += delta.token_ids
    return joined


def _ended_by_token(meta: _MetaInfo) -> bool:
    """Return True if the last token ended the answer: it is not part of its text."""
    return meta.finish_reason is not None and isinstance(meta.finish_reason.matched, int | list)


def _logprobs(meta: _MetaInfo) -> tuple[tuple[TokenLogprob, ...], TokenLogprob | None]:
    """Return log-probabilities of the new tokens, and apart from them that of the one that ended the turn."""
    if not meta.output_token_logprobs:
        return (), None
    logprobs = _token_logprobs(meta.output_token_logprobs, meta.output_top_logprobs)
    return (logprobs[:-1], logprobs[-1]) if _ended_by_token(meta) else (logprobs, None)


def _token_logprobs(
    tokens: list[_Logprob], tops: list[list[_Logprob] | None] | None
) -> tuple[TokenLogprob, ...]:
    if tops and len(tops) != len(tokens):
        raise EngineProtocolError("The engine's lists of log-probabilities are not of one length.")
    return tuple(
        TokenLogprob(
            token_id=token_id,
            text=text or "",
            logprob=_number(logprob),
            top=tuple(
                TokenLogprob(token_id=top_id, text=top_text or "", logprob=_number(top_logprob))
                for top_logprob, top_id, top_text in top or ()
            ),
        )
        for (logprob, token_id, text), top in zip(tokens, tops or [None] * len(tokens), strict=True)
    )


def _number(logprob: float | None) -> float:
    # OpenAI's value for "not among the most likely", as JSON has no minus infinity.
    return -9999.0 if logprob is None else max(logprob, -9999.0)
