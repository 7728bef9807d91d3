"""Stand-in that behaves like an engine: batches, memory, a queue, a prefix cache, and faults on request.

A request orders a fault with a stop string, the one field that every gateway passes on unchanged:
`stand-in:cut=5` closes the connection after five tokens, `stall` sends nothing more, `garbage` sends invalid
JSON, `error` an error event, `oom` ends the answer for lack of memory, `refuse` answers 503.
`client=NAME` orders nothing: how and when the request ended is listed under this name at `/stand_in/clients`.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from serval_load.stand_in.bare import WHOLE_ANSWER_POLL_S
from serval_load.stand_in.costs import Costs
from serval_load.stand_in.http import END_OF_STREAM, STREAM_HEAD, Exchange, event, response
from serval_load.stand_in.protocol import (
    DONE,
    STOP,
    TOKEN_TEXT,
    ParsedRequest,
    aborted_frame,
    error_body,
    native_frame,
    openai_answer,
    openai_chunk,
    openai_usage_chunk,
)
from serval_load.stand_in.routes import EngineInfo, Load, Routes
from serval_load.stand_in.scheduler import Job, Scheduler

OUT_OF_MEMORY = "Out of memory. The request needs more tokens than the KV cache holds."
QUEUE_FULL = "The request queue is full."
# SGLang's delay before it aborts a stream whose client has gone (`create_abort_task`).
STREAM_GONE_S = 2.0
_FAULTS = ("cut", "stall", "garbage", "error", "oom", "refuse")


@dataclass(eq=False)
class _Request:
    exchange: Exchange
    parsed: ParsedRequest
    job: Job
    # Fault to inject, and the number of tokens before it.
    fault: str = ""
    fault_after: int = 0
    client: str | None = None
    # Generated tokens that have not been sent.
    unsent: int = 0
    stalled: bool = False

    @property
    def text(self) -> str:
        """Text of the next event."""
        call = self.parsed.call
        if call is None:
            return TOKEN_TEXT * self.unsent
        text = call.token * self.unsent
        if self.job.generated == self.unsent:
            text = call.opening + text
        return text + call.closing if self.job.generated >= self.job.tokens else text

    @property
    def finish(self) -> dict[str, Any]:
        """Finish reason of the answer."""
        return STOP if self.parsed.call else {"type": "length", "length": self.job.tokens}


class ModelledEngine:
    """Engine that takes the time of its scheduler's steps."""

    def __init__(self, info: EngineInfo, costs: Costs) -> None:
        self._info = info
        self._scheduler = Scheduler(costs)
        self._requests: dict[str, _Request] = {}
        self._work = asyncio.Event()
        self._stalled = 0
        self.handle = Routes(
            info,
            start=self._start,
            abort=self._abort,
            load=lambda: Load(
                running=len(self._scheduler.running) + self._stalled,
                waiting=self._scheduler.waiting_count,
                used_tokens=self._scheduler.used_tokens,
                waiting_uncached=self._scheduler.waiting_uncached_tokens,
                prefilled_tokens=self._scheduler.prefilled_tokens,
                prefilled_s=self._scheduler.prefilled_s,
            ),
        )

    @property
    def busy(self) -> bool:
        """See `StandIn`."""
        return bool(self._requests)

    async def run(self) -> None:
        """Run scheduler steps until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            step = self._scheduler.step()
            if step is None:
                self._work.clear()
                await self._work.wait()
                due = loop.time()
                continue
            # Sleep until an absolute time, so that the stand-in's own costs do not add up.
            due = max(due + step.seconds, loop.time() - 1.0)
            await asyncio.sleep(max(due - loop.time(), 0.0))
            for job in step.failed:
                self._fail(self._requests[job.rid], OUT_OF_MEMORY, 500)
            for job in step.advanced:
                # A request may have been aborted during the step.
                if (request := self._requests.get(job.rid)) is not None:
                    self._deliver(request)

    def _start(self, exchange: Exchange, parsed: ParsedRequest) -> None:
        room = self._info.context_length - len(parsed.prompt)
        job = Job(
            rid=parsed.rid,
            prompt=parsed.prompt,
            tokens=min(parsed.max_tokens or room, room),
            salt=parsed.salt,
        )
        request = _Request(exchange, parsed, job)
        for order in parsed.orders:
            fault, _, after = order.partition("=")
            if fault == "client":
                request.client = after
            if fault in _FAULTS:
                request.fault, request.fault_after = fault, int(after or 1)
        self._info.counts["started"] += 1
        if request.fault == "refuse" or not self._scheduler.add(job):
            self._info.counts["failed"] += 1
            exchange.finish(response(error_body(QUEUE_FULL, 503), status=503))
            return
        self._requests[job.rid] = request
        exchange.on_gone = lambda: self._gone(request)
        if parsed.stream:
            exchange.write(STREAM_HEAD)
            if parsed.dialect == "openai":
                exchange.write(event(openai_chunk(parsed.rid, text="", role="assistant")))
        self._work.set()

    def _deliver(self, request: _Request) -> None:
        job = request.job
        request.unsent += 1
        if request.fault and job.generated >= request.fault_after:
            self._inject_fault(request)
            return
        ends = job.generated >= job.tokens
        if ends:
            self._end(request, "finished")
        if request.parsed.stream:
            if ends or request.unsent >= request.parsed.stream_interval or job.generated == 1:
                self._send(request, ends=ends)
        elif ends:
            request.exchange.finish(self._whole(request))

    def _send(self, request: _Request, *, ends: bool) -> None:
        parsed, job = request.parsed, request.job
        if parsed.dialect == "openai":
            out = event(openai_chunk(parsed.rid, text=request.text))
            if ends:
                out += event(openai_chunk(parsed.rid, text=None, finish="length"))
                if parsed.usage:
                    out += event(openai_usage_chunk(parsed.rid, prompt=len(job.prompt), tokens=job.generated))
        else:
            frame = native_frame(
                parsed.rid, text=request.text, tokens=job.generated, new=request.unsent,
                prompt=len(job.prompt), cached=job.cached, finish=request.finish if ends else None,
            )  # fmt: skip
            out = event(frame)
        request.unsent = 0
        if ends:
            request.exchange.finish(out + event(DONE) + END_OF_STREAM)
        else:
            request.exchange.write(out)

    def _whole(self, request: _Request) -> bytes:
        parsed, job = request.parsed, request.job
        if parsed.dialect == "openai":
            body = openai_answer(
                parsed.rid, text=request.text, prompt=len(job.prompt), tokens=job.generated, finish="length"
            )
        else:
            body = native_frame(
                parsed.rid, text=request.text, tokens=job.generated, new=job.generated,
                prompt=len(job.prompt), cached=job.cached, finish=request.finish,
            )  # fmt: skip
        return response(body)

    def _inject_fault(self, request: _Request) -> None:
        """Inject the fault that the request ordered."""
        fault = request.fault
        if fault == "stall":
            # As in a hung engine, the request keeps its slot and receives nothing.
            self._scheduler.remove(request.job)
            self._stalled += 1
            request.stalled = True
            return
        if fault == "oom":
            self._fail(request, OUT_OF_MEMORY, 500)
            return
        self._end(request, "failed")
        if fault == "cut":
            request.exchange.cut()
        elif fault == "error":
            out = event(error_body("stand-in: the error that was ordered", 500)) + event(DONE) + END_OF_STREAM
            request.exchange.finish(out)
        else:
            request.exchange.finish(event(b"{this is not JSON") + END_OF_STREAM)

    def _fail(self, request: _Request, message: str, status: int) -> None:
        self._end(request, "failed")
        if request.parsed.stream:
            request.exchange.finish(_aborted(request, message=message, status=status))
        else:
            request.exchange.finish(response(error_body(message, status), status=status))

    def _abort(self, rid: str) -> None:
        if (request := self._requests.get(rid)) is not None:
            self._end(request, "aborted")
            request.exchange.finish(_aborted(request))
        else:
            self._info.unknown_aborts.append(rid)

    def _gone(self, request: _Request) -> None:
        delay_s = STREAM_GONE_S if request.parsed.stream else WHOLE_ANSWER_POLL_S
        asyncio.get_running_loop().call_later(delay_s, self._end, request, "gone")

    def _end(self, request: _Request, how: str) -> None:
        if self._requests.pop(request.job.rid, None) is not None:
            self._scheduler.remove(request.job)
            self._stalled -= request.stalled
            self._info.counts[how] += 1
            self._info.tokens[f"prompt {how}"] += len(request.job.prompt)
            self._info.tokens[f"generation {how}"] += request.job.generated
            if request.client is not None:
                self._info.clients[request.client] = request.job.rid, how, time.monotonic()


def _aborted(request: _Request, *, message: str = "Aborted", status: int | None = None) -> bytes:
    """End of an aborted stream."""
    job = request.job
    frame = aborted_frame(
        job.rid, tokens=job.generated, prompt=len(job.prompt), message=message, status=status
    )
    return event(frame) + event(DONE) + END_OF_STREAM
