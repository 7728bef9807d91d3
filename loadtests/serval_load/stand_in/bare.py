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
def _frames(dialect: Dialect, tokens: int, interval: int) -> tuple[bytes, ...]:
    """Events of an answer; the first includes any preamble, the last the end of the stream."""
    frames = []
    for first in range(0, tokens, interval):
        last = min(first + interval, tokens)
        text = TOKEN_TEXT * (last - first)
        if dialect == "openai":
            frames.append(event(openai_chunk("stand-in", text=text)))
        else:
            finish = STOP if last == tokens else None
            frames.append(
                event(
                    native_frame(
                        "stand-in",
                        text=text,
                        tokens=last,
                        new=last - first,
                        prompt=64,
                        cached=0,
                        finish=finish,
                    )
                )
            )
    if dialect == "openai":
        frames[0] = event(openai_chunk("stand-in", text="", role="assistant")) + frames[0]
        frames[-1] += event(openai_chunk("stand-in", text=None, finish="stop"))
    frames[-1] += event(DONE) + END_OF_STREAM
    return tuple(frames)


@lru_cache(maxsize=64)
def _whole(dialect: Dialect, tokens: int) -> bytes:
    text = TOKEN_TEXT * tokens
    if dialect == "openai":
        return response(openai_answer("stand-in", text=text, prompt=64, tokens=tokens, finish="stop"))
    return response(
        native_frame("stand-in", text=text, tokens=tokens, new=tokens, prompt=64, cached=0, finish=STOP)
    )


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
            exchange.finish(_whole(request.dialect, tokens))
            return
        if not request.stream:
            self._start_whole(exchange, request, tokens)
            return
        frames = _frames(request.dialect, tokens, request.stream_interval)
        if at_once:
            self._info.counts["finished"] += 1
            exchange.finish(STREAM_HEAD + b"".join(frames))
            return
        stream = _Stream(exchange, request.rid, frames)
        self._streams[stream.rid] = stream
        exchange.on_gone = lambda: self._end(stream, "gone")
        self._slots[self._slot].add(stream)
        exchange.write(STREAM_HEAD)
        self._send(stream)

    def _start_whole(self, exchange: Exchange, request: ParsedRequest, tokens: int) -> None:
        stream = _Stream(exchange, request.rid, ())
        self._streams[stream.rid] = stream
        loop = asyncio.get_running_loop()

        def finish() -> None:
            self._end(stream, "finished")
            exchange.finish(_whole(request.dialect, tokens))

        timer = loop.call_later(tokens * self._pace_s, finish)

        def gone() -> None:
            timer.cancel()
            loop.call_later(WHOLE_ANSWER_POLL_S, self._end, stream, "gone")

        exchange.on_gone = gone

    def _send(self, stream: _Stream) -> None:
        frame = stream.frames[stream.place]
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
                event(aborted_frame(rid, tokens=stream.place, prompt=64)) + event(DONE) + END_OF_STREAM
            )

    def _end(self, stream: _Stream, how: str) -> None:
        self._streams.pop(stream.rid, None)
        for slot in self._slots:
            slot.discard(stream)
        self._info.counts[how] += 1
