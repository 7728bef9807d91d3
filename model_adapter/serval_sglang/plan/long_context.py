"""Costs of a long prompt: memory of its KV cache, seconds to its first token, and of retrieval instead.

Seconds are those of an engine with no other request, from the costs of its steps (`plan.step_costs`). A
prompt of n tokens of which the cache holds h is computed in chunks:

    first(n, h) = sum over chunks, of t tokens that begin at b, of prefill(t, t * (b + t / 2))

One question of q tokens with an answer of a tokens about documents of n tokens takes, once these are cached,

    stuffed(n) = first(n + q, n) + a * decode(1, n + q)

With retrieval the documents are not in the prompt. The model makes k calls of w tokens, each of which brings
r tokens, behind a beginning (instructions and tools) of s cached tokens, with s_0 = s + q and
s_i = s_(i-1) + w + r:

    retrieved = first(s_0, s) + a * decode(1, s_k)
                + sum over i = 1..k of w * decode(1, s_(i-1)) + first(s_i, s_(i-1))

For m questions about the same documents, one after the other, retrieval is cheaper while
m * retrieved < first(n, 0) + m * stuffed(n).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serval_sglang.plan.fit import Plan
from serval_sglang.plan.step_costs import StepCosts

# 32K, 128K and 256K.
LENGTHS = (32_768, 131_072, 262_144)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Sizes of a question, all but `calls` in tokens: q, a, k, w, r and s of the formulas."""

    beginning: int = 1_000
    question: int = 200
    answer: int = 300
    calls: int = 5
    call: int = 50
    result: int = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LongPrompt:
    """Costs of a prompt of `tokens`. Bytes are per GPU: each rank of an engine keeps all latents.

    - `at_once`: requests of this length that one engine holds; 0 if none fits
    - `first_s`: seconds to the first token, none of the prompt cached
    - `decode_s`: seconds of each token behind it
    - `stuffed_s`, `retrieved_s`: seconds of a question, with the whole prompt cached, and with retrieval
    - `questions`: retrieval is cheaper for fewer questions; infinity: for any number
    """

    tokens: int
    kv_bytes: int
    at_once: int
    first_s: float
    decode_s: float
    stuffed_s: float
    retrieved_s: float
    questions: float


def first_token_s(costs: StepCosts, tokens: int, *, cached: int = 0, chunk: int) -> float:
    """Return the seconds until a prompt's first token, `cached` of its tokens found in the cache."""
    begins = range(cached, tokens, chunk)
    sizes = [min(chunk, tokens - begin) for begin in begins]
    return sum(
        costs.prefill_s(size, size * (begin + size / 2)) for begin, size in zip(begins, sizes, strict=True)
    )


def stuffed_s(costs: StepCosts, tokens: int, work: Work, *, chunk: int) -> float:
    """Return the seconds of a question behind `tokens` of documents that are cached."""
    whole = tokens + work.question
    return first_token_s(costs, whole, cached=tokens, chunk=chunk) + work.answer * costs.decode_s(1, whole)


def retrieved_s(costs: StepCosts, work: Work, *, chunk: int) -> float:
    """Return the seconds of a question whose documents are searched by calls."""
    length = work.beginning + work.question
    seconds = first_token_s(costs, length, cached=work.beginning, chunk=chunk)
    for _ in range(work.calls):
        seconds += work.call * costs.decode_s(1, length)
        longer = length + work.call + work.result
        seconds += first_token_s(costs, longer, cached=length, chunk=chunk)
        length = longer
    return seconds + work.answer * costs.decode_s(1, length)


def long_prompts(
    plan: Plan, costs: StepCosts, work: Work, *, lengths: Sequence[int] = LENGTHS
) -> list[LongPrompt]:
    """Return the costs of prompts of these lengths on one engine of the plan."""
    chunk = plan.limits.chunked_prefill_size
    retrieved = retrieved_s(costs, work, chunk=chunk)
    found = []
    for tokens in lengths:
        first = first_token_s(costs, tokens, chunk=chunk)
        stuffed = stuffed_s(costs, tokens, work, chunk=chunk)
        more = retrieved - stuffed
        found.append(
            LongPrompt(
                tokens=tokens,
                kv_bytes=tokens * plan.kv_bytes_per_token,
                at_once=min(plan.kv_tokens // tokens, plan.request_slots),
                first_s=first,
                decode_s=costs.decode_s(1, tokens),
                stuffed_s=stuffed,
                retrieved_s=retrieved,
                questions=first / more if more > 0 else math.inf,
            )
        )
    return found
