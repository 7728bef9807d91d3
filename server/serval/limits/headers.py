"""Limits as a client sees them: headers of every answer, and errors of refused requests."""

from collections.abc import Mapping

from serval.caller.limits import Limits
from serval.errors import InsufficientQuotaError, InvalidRequestError, RateLimitError
from serval.limits.messages import Decision, ReservationRequest

_MINUTE_S = 60
_HOUR_S = 3600


def limit_headers(limits: Limits, decision: Decision) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*` headers; none for a dimension without limit.

    Those of tokens are of the minute, or of the day if only that is limited.
    """
    headers = {}
    if limits.requests_per_minute is not None:
        headers["x-ratelimit-limit-requests"] = str(limits.requests_per_minute)
        headers["x-ratelimit-remaining-requests"] = str(decision.requests_remaining)
        headers["x-ratelimit-reset-requests"] = duration(decision.requests_reset_ms)
    if limits.tokens_per_minute is not None:
        headers["x-ratelimit-limit-tokens"] = str(limits.tokens_per_minute)
        headers["x-ratelimit-remaining-tokens"] = str(decision.tokens_remaining)
        headers["x-ratelimit-reset-tokens"] = duration(decision.tokens_reset_ms)
    elif decision.day_remaining is not None and decision.day_reset_ms is not None:
        headers["x-ratelimit-limit-tokens"] = str(limits.tokens_per_day)
        headers["x-ratelimit-remaining-tokens"] = str(decision.day_remaining)
        headers["x-ratelimit-reset-tokens"] = duration(decision.day_reset_ms)
    return headers


def duration(ms: int) -> str:
    """Milliseconds as OpenAI writes them: `250ms`, `1s`, `6m0s`, `1h0m0s`. From a second on, rounded up."""
    if 0 < ms < 1000:
        return f"{ms}ms"
    seconds = -(-ms // 1000)
    if seconds < _MINUTE_S:
        return f"{seconds}s"
    minutes = f"{seconds % _HOUR_S // _MINUTE_S}m{seconds % _MINUTE_S}s"
    return minutes if seconds < _HOUR_S else f"{seconds // _HOUR_S}h{minutes}"


def refusal(
    decision: Decision, request: ReservationRequest, *, headers: Mapping[str, str]
) -> RateLimitError | InsufficientQuotaError:
    """The error for a refused request."""
    limits = request.limits
    again = f"Try again in {duration(decision.wait_ms)}."
    least_tokens = request.tokens - request.optional_tokens
    if decision.refused == "budget":
        return InsufficientQuotaError(
            f"This API key's budget of {limits.tokens_per_day} tokens a day (UTC) has no room for"
            f" {least_tokens} more today. The next day begins in {duration(decision.wait_ms)}; ask the"
            " operator for a larger budget if you need one.",
            wait_ms=decision.wait_ms,
            headers=headers,
        )
    if decision.refused == "requests":
        problem = f"Rate limit reached for requests: {limits.requests_per_minute} requests a minute"
        problem += "." if request.requests == 1 else f", and this call makes {request.requests}."
    elif decision.refused == "tokens":
        problem = (
            f"Rate limit reached for tokens: {limits.tokens_per_minute} tokens a minute, of which"
            f" {decision.tokens_remaining} are left and this request may use {request.tokens}."
        )
    elif decision.refused == "budget_reserved":
        problem = (
            f"Running requests have reserved so much of this API key's budget of {limits.tokens_per_day}"
            f" tokens a day (UTC) that {least_tokens} more do not fit; tokens that they do not use are free"
            " again when they end."
        )
    else:
        problem = (
            f"Too many requests at once: this key's limit of concurrency is {limits.concurrent_requests}"
        )
        problem += "." if request.requests == 1 else f", and this call makes {request.requests}."
    return RateLimitError(f"{problem} {again}", wait_ms=decision.wait_ms, headers=headers)


def never_fits(*, prompt_tokens: int, completion_tokens: int, limits: Limits) -> InvalidRequestError:
    """The error for a request that exceeds the whole limit, so that waiting does not help."""
    per_minute = limits.tokens == limits.tokens_per_minute
    return InvalidRequestError(
        f"This request may use {prompt_tokens + completion_tokens} tokens ({prompt_tokens} of the prompt and"
        f" {completion_tokens} of the completion), more than this API key's limit of {limits.tokens} tokens a"
        f" {'minute' if per_minute else 'day'}. Shorten it, or ask for fewer tokens.",
        code="tokens_exceed_limit",
    )


def too_many_requests(requests: int, *, limits: Limits) -> InvalidRequestError:
    """The error for a call that makes more requests of the engine than the limit allows at all."""
    at_once = limits.requests == limits.concurrent_requests
    return InvalidRequestError(
        f"This call makes {requests} requests, one for each choice of each prompt; this API key's limit is"
        f" {limits.requests} {'at once' if at_once else 'a minute'}. Ask for fewer choices, or send fewer"
        " prompts in a call.",
        code="requests_exceed_limit",
    )
