"""Routes shared by both stand-ins: SGLang's information endpoints and its load."""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from serval_load.stand_in.http import Exchange, response
from serval_load.stand_in.protocol import MODEL, ParsedRequest, error_body, read_native, read_openai

Counts = Counter[str]


@dataclass
class EngineInfo:
    """Self-description of the stand-in. A gateway reads its tokenizer from the folder `model_path`."""

    model_path: str
    context_length: int
    max_total_num_tokens: int
    max_running_requests: int
    # Ready for new requests; false while it drains.
    ready: bool = True
    # SGLang's report of the most requests that run at once.
    tells_max_running: bool = False
    # Ends of requests that named their client (`modelled.py`): id, outcome and `time.monotonic()`, by client.
    clients: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    # Ids in aborts of requests that were not running here.
    unknown_aborts: list[str] = field(default_factory=list)
    # Requests by outcome: started, finished, aborted, gone (client closed), failed (ordered or out of
    # memory).
    counts: Counts = field(default_factory=Counter)
    # Tokens of requests that have ended (`modelled.py`): `prompt` and `generation` by outcome, such as
    # `prompt finished`.
    tokens: Counts = field(default_factory=Counter)


@dataclass(frozen=True)
class Load:
    """Current load of the engine."""

    running: int
    waiting: int
    used_tokens: int
    # Prompt tokens that wait to be computed; those computed so far, and the seconds spent on them.
    waiting_uncached: int = 0
    prefilled_tokens: int = 0
    prefilled_s: float = 0.0


class Routes:
    """Dispatches each request: `start` generates an answer, `abort` ends the request with an id."""

    def __init__(
        self,
        info: EngineInfo,
        *,
        start: Callable[[Exchange, ParsedRequest], None],
        abort: Callable[[str], None],
        load: Callable[[], Load],
    ) -> None:
        self._info = info
        self._start = start
        self._abort = abort
        self._load = load
        self._number = 0
        self._fixed = {path: response(json.dumps(body).encode()) for path, body in _described(info).items()}
        empty = response(b"")
        self._fixed |= dict.fromkeys(("/health", "/health_generate", "/flush_cache"), empty)

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        path = exchange.path
        try:
            if path == "/generate":
                self._start(exchange, read_native(exchange.body, rid=self._next_rid()))
            elif path == "/v1/chat/completions":
                self._start(exchange, read_openai(exchange.body, rid=self._next_rid()))
            elif path == "/abort_request":
                self._abort(json.loads(exchange.body)["rid"])
                exchange.finish(response(b""))
            elif path in {"/v1/loads", "/get_load"}:
                exchange.finish(response(json.dumps(self._loads()).encode()))
            elif path == "/ready":
                exchange.finish(response(b"", status=200 if self._info.ready else 503))
            elif path == "/stand_in/clients":
                exchange.finish(response(json.dumps(self._clients()).encode()))
            elif path == "/stand_in/tokens":
                exchange.finish(response(json.dumps(self._info.tokens).encode()))
            elif path == "/metrics":
                exchange.finish(response(self._metrics(), content_type=b"text/plain; version=0.0.4"))
            elif path in self._fixed:
                exchange.finish(self._fixed[path])
            else:
                exchange.finish(response(error_body(f"the stand-in has no {path}", 404), status=404))
        except (msgspec.MsgspecError, ValueError, KeyError) as error:
            exchange.finish(response(error_body(str(error), 400), status=400))

    def _next_rid(self) -> str:
        self._number += 1
        return f"stand-in-{self._number}"

    def _loads(self) -> dict[str, object]:
        load = self._load()
        one = {
            "timestamp": time.time(),
            "dp_rank": 0,
            "num_running_reqs": load.running,
            "num_waiting_reqs": load.waiting,
            "num_waiting_uncached_tokens": load.waiting_uncached,
            "num_used_tokens": load.used_tokens,
            "num_total_tokens": load.used_tokens,
            "max_total_num_tokens": self._info.max_total_num_tokens,
            "max_running_requests": self._info.max_running_requests,
            "token_usage": load.used_tokens / max(self._info.max_total_num_tokens, 1),
            "total_prefill_uncached_tokens": load.prefilled_tokens,
            "total_prefill_busy_us": round(load.prefilled_s * 1e6),
        }
        # `stand_in` is beside SGLang's own keys: requests so far by outcome.
        return {"version": "0.5.23", "loads": [one], "stand_in": dict(self._info.counts)}

    def _clients(self) -> dict[str, object]:
        return {"ended": self._info.clients, "unknown_aborts": self._info.unknown_aborts}

    def _metrics(self) -> bytes:
        load, counts = self._load(), self._info.counts
        values = {
            "num_running_reqs": load.running,
            "num_queue_reqs": load.waiting,
            "token_usage": load.used_tokens / max(self._info.max_total_num_tokens, 1),
            "num_requests_total": counts["started"],
            "num_aborted_requests_total": counts["aborted"] + counts["gone"],
            "prompt_tokens_total": self._ended_tokens("prompt"),
            "generation_tokens_total": self._ended_tokens("generation"),
        }
        labels = f'model_name="{MODEL}"'
        lines = [f"sglang:{name}{{{labels}}} {value}\n" for name, value in values.items()]
        computed = (
            f'sglang:realtime_tokens_total{{{labels},mode="prefill_compute"}} {load.prefilled_tokens}\n'
        )
        return "".join([*lines, computed]).encode()

    def _ended_tokens(self, kind: str) -> int:
        return sum(count for name, count in self._info.tokens.items() if name.startswith(kind))


def _described(info: EngineInfo) -> dict[str, dict[str, object]]:
    model = {
        "model_path": info.model_path, "served_model_name": MODEL, "tokenizer_path": info.model_path,
        "is_generation": True, "weight_version": "default",
    }  # fmt: skip
    running = {"effective_max_running_requests_per_dp": info.max_running_requests}
    server = {
        "stand_in": "this is Serval's engine stand-in, not SGLang: it computes nothing",
        "model_path": info.model_path,
        "served_model_name": MODEL,
        "max_req_input_len": min(info.context_length, info.max_total_num_tokens) - 6,
        "incremental_streaming_output": True,
        "max_total_num_tokens": info.max_total_num_tokens,
        "version": "0.5.23",
        "internal_states": [running] if info.tells_max_running else [],
    }
    card = {
        "id": MODEL, "object": "model", "created": 1767225600, "owned_by": "stand-in", "root": MODEL,
        "parent": None, "max_model_len": info.context_length,
    }  # fmt: skip
    return {
        "/model_info": model,
        "/get_model_info": model,
        "/server_info": server,
        "/get_server_info": server,
        "/v1/models": {"object": "list", "data": [card]},
    }
