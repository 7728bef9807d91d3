"""StandInEngine: an HTTP server that speaks SGLang's native protocol and sends answers scripted by a test.

It stands in for SGLang 0.5.23 started with `--incremental-streaming-output`: `/generate`, `/abort_request`,
`/ready`, `/health`, `/model_info`, `/server_info`, `/v1/models`, `/v1/loads`. It computes nothing.
"""

import asyncio
import itertools
import json
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from aiohttp import web
from tokenizers import Tokenizer

Fault = Literal["stall", "cut", "garbage", "no_finish", "error_event", "http_error", "silent"]

STOP: dict[str, Any] = {"type": "stop", "matched": 2}


@dataclass
class Answer:
    """Script of the next `/generate`: each piece of text is one event, and one token unless `logprobs` has
    more."""

    pieces: Sequence[str] = ("Hello", " world")
    # Token ids of each event; by default those of the text, in which every marker is a control token.
    ids: Sequence[Sequence[int]] | None = None
    finish: dict[str, Any] = field(default_factory=lambda: dict(STOP))
    # After the pieces: stall, cut the connection, send garbage, leave out the finish, send an error.
    # `http_error` answers immediately with `status`; `silent` never answers.
    fault: Fault | None = None
    status: int = 500
    message: str = "stand-in failure"
    cached_tokens: int = 0
    # Fields of each event's `meta_info` that are not as they should be.
    meta: dict[str, Any] = field(default_factory=dict)
    # Tokens per event, and [log-probability, id, text] of each.
    logprobs: Sequence[Sequence[list[Any]]] | None = None
    # The most likely ones at each of these tokens; by default the token alone.
    tops: Sequence[Sequence[list[Any]]] | None = None
    # Those of the prompt's tokens; every event repeats them.
    prompt_logprobs: Sequence[list[Any]] | None = None
    delay_s: float = 0.0
    # Awaited before the last piece or, if there is one, before the fault.
    hold: asyncio.Event | None = None


class StandInEngine:
    """The server. `requests` and `aborted` record what it received; `answers` are sent in order."""

    def __init__(self, *, model_path: str, context_length: int = 8192, max_req_input_len: int = 8000) -> None:
        self.model_path = model_path
        self.context_length = context_length
        self.max_req_input_len = max_req_input_len
        self.incremental_streaming_output = True
        self.ready = True
        # Answers nothing, not even whether it is ready.
        self.hangs = False
        self.ready_asked = 0
        # The limit that it reports; None: it reports none.
        self.max_running_requests: int | None = None
        # Tokens of its KV cache; 0: it does not tell.
        self.kv_tokens = 0
        self.waiting = 0
        self.kv_use = 0.0
        self.running_requests = 0
        self.waiting_uncached = 0
        self.loads_asked = 0
        # Closes the connection of each request without an answer.
        self.hangs_up = False
        # SGLang's default: the weights have no name.
        self.weight_version = "default"
        self.architectures = ["LongcatFlashNgramForCausalLM"]
        # Added to each id that `/tokenize` tells, as if the tokenizer were another one.
        self.token_offset = 0
        # Its `--disaggregation-mode`: prefill and decode engines work in pairs.
        self.role = "null"
        # Data-parallel ranks that it reports.
        self.ranks = 1
        self.answers: deque[Answer] = deque()
        # Chooses the answer to a request's body if none is queued.
        self.script: Callable[[dict[str, Any]], Answer] | None = None
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.aborted: list[str] = []
        self.abort_seen = asyncio.Event()
        self.generating = asyncio.Event()
        self.url = ""
        self._runner: web.AppRunner | None = None

    def will_say(self, *pieces: str, **fields: Any) -> None:
        """Queue an answer made of `pieces`."""
        self.answers.append(Answer(pieces=pieces, **fields))

    async def load_was_asked(self) -> None:
        """Wait until the load, as it is now, has been asked for and taken over."""
        before = self.loads_asked
        async with asyncio.timeout(60):
            while self.loads_asked < before + 2:  # noqa: ASYNC110  # a count of requests
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["StandInEngine"]:
        """Serve on a port of the loopback interface, by default a free one."""
        app = web.Application(client_max_size=1 << 30)
        app.add_routes(
            [
                web.post("/generate", self._generate),
                web.post("/abort_request", self._abort),
                web.get("/ready", self._ready),
                web.get("/health", self._ready),
                web.get("/model_info", self._model_info),
                web.get("/server_info", self._server_info),
                web.get("/v1/models", self._models),
                web.get("/v1/loads", self._loads),
                web.post("/tokenize", self._tokenize),
            ]
        )
        runner = self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def end(self) -> None:
        """End as a killed engine does; `running` need not be left."""
        assert self._runner is not None
        await self._runner.cleanup()

    async def _ready(self, _: web.Request) -> web.Response:
        self.ready_asked += 1
        if self.hangs:
            await asyncio.sleep(3600)
        return web.Response(status=200 if self.ready else 503)

    async def _model_info(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "model_path": self.model_path,
                "served_model_name": self.model_path,
                "architectures": self.architectures,
                "disaggregation_mode": self.role,
                "weight_version": self.weight_version,
            }
        )

    async def _server_info(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "device": "cpu",
                "max_req_input_len": self.max_req_input_len,
                "max_total_num_tokens": self.kv_tokens,
                "incremental_streaming_output": self.incremental_streaming_output,
                "internal_states": [{"effective_max_running_requests_per_dp": self.max_running_requests}],
            }
        )

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "max_model_len": self.context_length}]})

    async def _loads(self, _: web.Request) -> web.Response:
        self.loads_asked += 1
        load = {
            "num_running_reqs": self.running_requests,
            "num_waiting_reqs": self.waiting,
            "num_waiting_uncached_tokens": self.waiting_uncached,
            "token_usage": self.kv_use,
            "max_total_num_tokens": self.kv_tokens,
        }
        return web.json_response({"loads": [{"dp_rank": rank, **load} for rank in range(self.ranks)]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        text = (await request.json())["prompt"]
        ids = _tokenizer(self.model_path).encode(text, add_special_tokens=False).ids
        return web.json_response({"tokens": [token + self.token_offset for token in ids]})

    async def _abort(self, request: web.Request) -> web.Response:
        self.aborted.append((await request.json())["rid"])
        self.abort_seen.set()
        return web.Response()

    def _answer(self, body: dict[str, Any]) -> Answer:
        if self.answers:
            return self.answers.popleft()
        return _usual(body["sampling_params"]) if self.script is None else self.script(body)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.generating.set()
        if self.hangs_up:
            assert request.transport is not None
            request.transport.close()
            return web.StreamResponse()
        answer = self._answer(body)
        if answer.fault == "http_error":
            return web.json_response({"error": {"message": answer.message}}, status=answer.status)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if answer.fault == "silent":
            await asyncio.sleep(3600)
        ids = ids_of(answer, self.model_path) if answer.ids is None else answer.ids
        events = _events(answer, ids, prompt_tokens=len(body["input_ids"]), rid=body["rid"])
        for place, event in enumerate(events):
            if answer.delay_s and place:
                await asyncio.sleep(answer.delay_s)
            if answer.hold is not None and answer.fault is None and event is events[-1]:
                await answer.hold.wait()
            await response.write(_frame(event))
        await _end(answer, response, request)
        return response


def _usual(sampling: dict[str, Any]) -> Answer:
    """Return the answer to a request for which none is scripted, within its limit of tokens."""
    limit, pieces = sampling.get("max_new_tokens"), Answer().pieces
    if limit is None or limit >= len(pieces):
        return Answer()
    return Answer(pieces[: max(1, limit)], finish={"type": "length", "length": limit})


@lru_cache
def _tokenizer(model_path: str) -> Tokenizer:
    return Tokenizer.from_file(f"{model_path}/tokenizer.json")


def ids_of(answer: Answer, model_path: str) -> list[list[int]]:
    """Return the ids of the text: each token's with the piece in which its text begins."""
    ends = list(itertools.accumulate(map(len, answer.pieces)))
    ids: list[list[int]] = [[] for _ in answer.pieces]
    encoding = _tokenizer(model_path).encode("".join(answer.pieces), add_special_tokens=False)
    for token_id, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True):
        ids[bisect_right(ends, begin)].append(token_id)
    if ids and isinstance(matched := answer.finish.get("matched"), int):
        ids[-1].append(matched)
    return ids


def _events(
    answer: Answer, ids: Sequence[Sequence[int]], *, prompt_tokens: int, rid: str
) -> list[dict[str, Any]]:
    events = []
    tokens = 0
    for place, piece in enumerate(answer.pieces):
        tokens += 1 if answer.logprobs is None else len(answer.logprobs[place])
        last = place == len(answer.pieces) - 1 and answer.fault is None
        meta: dict[str, Any] = {
            "id": rid,
            "finish_reason": answer.finish if last else None,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "cached_tokens": answer.cached_tokens,
            "reasoning_tokens": 0,
            **answer.meta,
        }
        if answer.logprobs is not None:
            entries = [list(entry) for entry in answer.logprobs[place]]
            meta["output_token_logprobs"] = entries
            tops = [[entry] for entry in entries] if answer.tops is None else list(answer.tops[place])
            meta["output_top_logprobs"] = tops
        if answer.prompt_logprobs is not None:
            prompt = [list(entry) for entry in answer.prompt_logprobs]
            meta["input_token_logprobs"] = prompt
            meta["input_top_logprobs"] = [None, *([entry] for entry in prompt[1:])]
        events.append({"text": piece, "output_ids": list(ids[place]), "meta_info": meta})
    return events


async def _end(answer: Answer, response: web.StreamResponse, request: web.Request) -> None:
    if answer.fault is not None and answer.hold is not None:
        await answer.hold.wait()
    if answer.fault == "stall":
        await asyncio.sleep(3600)
    if answer.fault == "cut":
        assert request.transport is not None
        request.transport.close()
        return
    if answer.fault == "garbage":
        await response.write(b"data: {this is not JSON\n\n")
        await asyncio.sleep(3600)
    if answer.fault == "error_event":
        await response.write(_frame({"error": {"message": answer.message, "code": answer.status}}))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()


def _frame(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"
