"""Requests in SGLang's form: the body of `/generate`, and the salt that parts the tenants' caches."""

import hashlib
import hmac
import secrets
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from serval.engine.protocol import GenerateRequest


def generate_body(request: GenerateRequest, *, salt: str | None = None) -> bytes:
    """Return the body of `/generate`. Cached prefixes are shared by requests with the same `salt` only."""
    body: dict[str, Any] = {
        "rid": request.request_id,
        "input_ids": list(request.input_ids),
        "sampling_params": request.sampling,
        "stream": True,
    }
    if salt is not None:
        body["cache_salt"] = salt
    if request.rank is not None:
        body["routed_dp_rank"] = request.rank
    if request.bootstrap is not None:
        body["bootstrap_host"] = request.bootstrap.host
        body["bootstrap_port"] = request.bootstrap.port
        body["bootstrap_room"] = request.bootstrap.room
    if request.prefill_rank is not None:
        body["disagg_prefill_dp_rank"] = request.prefill_rank
    if request.top_logprobs is not None:
        body |= {
            "return_logprob": True,
            "top_logprobs_num": request.top_logprobs,
            "return_text_in_logprobs": True,
        }
        if request.prompt_logprobs:
            body["logprob_start_len"] = 0
    if request.traceparent is not None:
        body["external_trace_header"] = {"traceparent": request.traceparent}
    return msgspec.json.encode(body)


@lru_cache(maxsize=4096)
def cache_salt(key: bytes, tenant: str) -> str:
    """Return the salt of `tenant`'s cached prefixes. Every gateway with the same `key` computes the same."""
    return hmac.digest(key, tenant.encode(), hashlib.sha256).hex()


def renamed(request: GenerateRequest) -> GenerateRequest:
    """Return the request with another id of the same form and length."""
    prefix, _, random = request.request_id.rpartition("-")
    return replace(request, request_id=f"{prefix}-{secrets.token_hex(len(random) // 2)}")
