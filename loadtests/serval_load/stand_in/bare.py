"""Fast stand-in: frames encoded beforehand and sent at a fixed pace or all at once.

It models nothing, so that the program in front of it is the bottleneck.
"""

import asyncio
from dataclasses import dataclass
from functools import lru_cache

from serval_load.stand_in.http import END_OF_STREAM, STREAM_HEAD, Exchange, event, response
from serval_load.stand_in.protocol import (
    DONE,
    STOP,
    TOKEN_TEXT,
    Dialect,
    ParsedRequest,
    aborted_frame,
    native_frame,
    openai_answer,
    openai_chunk,
)
from serval_load.stand_in.routes import EngineInfo, Load, Routes

# Parts of a pace. Streams that began in the same part send their frames together.
_SLOTS = 20
_DEFAULT_TOKENS = 16
# Order for a whole answer in one write.
AT_ONCE = "at-once"
# SGLang's delay before it sees that the client of a whole answer has gone
# (SGLANG_REQUEST_STATE_WAIT_TIMEOUT).
WHOLE_ANSWER_POLL_S = 4.0


@lru_cache(maxsize=4096)
def _frames(dialect: Dialect, tokens: int, interval: int, prompt: int, placeholder: str) -> tuple[bytes, ...]:
    """Events of an answer; the first includes any preamble, the last the end of the stream."""
    frames = []
    for first in range(0, tokens, interval):
        last = min(first + interval, tokens)
        text = TOKEN_TEXT * (last - first)
        if dialect == "openai":
            frames.append(event(openai_chunk(placeholder, text=text)))
        else:
            finish = STOP if last == tokens else None
            frames.append(
                event(
                    native_frame(
                        placeholder,
                        text=text,
                        tokens=last,
                        new=last - first,
                        prompt=prompt,
                        cached=0,
                        finish=finish,
                    )
                )
            )
    if dialect == "openai":
        frames[0] = event(openai_chunk(placeholder, text="", role="assistant")) + frames[0]
        frames[-1] += event(openai_chunk(placeholder, text=None, finish="stop"))
    frames[-1] += event(DONE) + END_OF_STREAM
    return tuple(frames)


@lru_cache(maxsize=64)
def _whole(dialect: Dialect, tokens: int, prompt: int, placeholder: str) -> bytes:
    text = TOKEN_TEXT * tokens
    if dialect == "openai":
        return response(openai_answer(placeholder, text=text, prompt=prompt, tokens=tokens, finish="stop"))
    return response(
        native_frame(placeholder, text=text, tokens=tokens, new=tokens, prompt=prompt, cached=0, finish=STOP)
    )


def _placeholder(rid: str) -> str:
    """Return the placeholder for `rid` in frames encoded beforehand: as long, and found in no text."""
    return "@" * len(rid)


def _prompt_tokens(request: ParsedRequest) -> int:
    """Return a count that has few different values and is no larger than the prompt."""
    return min(64, len(request.prompt))


def _with_id(data: bytes, rid: str) -> bytes:
    return data.replace(_placeholder(rid).encode(), rid.encode())


@dataclass(eq=False)
class _Stream:
    exchange: Exchange
    rid: str
    frames: tuple[bytes, ...]
    place: int = 0


class BareEngine:
    """Engine without a model. With `pace_s` 0 an answer is a single write."""

    def __init__(self, info: EngineInfo, *, pace_s: float) -> None:
        self._info = info
        self._pace_s = pace_s
        self._slots: list[set[_Stream]] = [set() for _ in range(_SLOTS)]
        self._streams: dict[str, _Stream] = {}
        self._slot = 0
        self.handle = Routes(
            info,
            start=self._start,
            abort=self._abort,
            load=lambda: Load(running=len(self._streams), waiting=0, used_tokens=0),
        )

    @property
    def busy(self) -> bool:
        """See `StandIn`."""
        return bool(self._streams)

    async def run(self) -> None:
        """Serve the paced streams until cancelled."""
        loop = asyncio.get_running_loop()
        if self._pace_s == 0:
            await asyncio.Event().wait()
        due = loop.time()
        while True:
            # After a delay of more than one pace, go on from now: catching up would inflate frames/s.
            due = max(due + self._pace_s / _SLOTS, loop.time() - self._pace_s)
            await asyncio.sleep(due - loop.time())
            self._slot = (self._slot + 1) % _SLOTS
            for stream in list(self._slots[self._slot]):
                self._send(stream)

    def _start(self, exchange: Exchange, request: ParsedRequest) -> None:
        tokens = request.max_tokens or _DEFAULT_TOKENS
        self._info.counts["started"] += 1
        at_once = self._pace_s == 0 or AT_ONCE in request.orders
        if at_once and not request.stream:
            self._info.counts["finished"] += 1
            exchange.finish(self._whole_of(request, tokens))
            return
        if not request.stream:
            self._start_whole(exchange, request, tokens)
            return
        frames = _frames(
            request.dialect,
            tokens,
            request.stream_interval,
            _prompt_tokens(request),
            _placeholder(request.rid),
        )
        if at_once:
            self._info.counts["finished"] += 1
            exchange.finish(STREAM_HEAD + _with_id(b"".join(frames), request.rid))
            return
        stream = _Stream(exchange, request.rid, frames)
        self._streams[stream.rid] = stream
        exchange.on_gone = lambda: self._end(stream, "gone")
        self._slots[self._slot].add(stream)
        exchange.write(STREAM_HEAD)
        self._send(stream)

    def _whole_of(self, request: ParsedRequest, tokens: int) -> bytes:
        whole = _whole(request.dialect, tokens, _prompt_tokens(request), _placeholder(request.rid))
        return _with_id(whole, request.rid)

    def _start_whole(self, exchange: Exchange, request: ParsedRequest, tokens: int) -> None:
        stream = _Stream(exchange, request.rid, ())
        self._streams[stream.rid] = stream
        loop = asyncio.get_running_loop()

        def finish() -> None:
            self._end(stream, "finished")
            exchange.finish(self._whole_of(request, tokens))

        timer = loop.call_later(tokens * self._pace_s, finish)

        def gone() -> None:
            timer.cancel()
            loop.call_later(WHOLE_ANSWER_POLL_S, self._end, stream, "gone")

        exchange.on_gone = gone

    def _send(self, stream: _Stream) -> None:
        frame = _with_id(stream.frames[stream.place], stream.rid)
        stream.place += 1
        if stream.place < len(stream.frames):
            stream.exchange.write(frame)
        else:
            self._end(stream, "finished")
            stream.exchange.finish(frame)

    def _abort(self, rid: str) -> None:
        if (stream := self._streams.get(rid)) is not None:
            self._end(stream, "aborted")
            stream.exchange.finish(
                event(aborted_frame(rid, tokens=stream.place, prompt=0)) + event(DONE) + END_OF_STREAM
            )

    def _end(self, stream: _Stream, how: str) -> None:
        self._streams.pop(stream.rid, None)
        for slot in self._slots:
            slot.discard(stream)
        self._info.counts[how] += 1
