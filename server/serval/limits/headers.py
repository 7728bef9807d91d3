"""Limits as a client sees them: headers of every answer, and errors of refused requests."""

from collections.abc import Mapping

from serval.caller.budgets import Budget, amount_text, cost_text
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
    decision: Decision, request: ReservationRequest, *, headers: Mapping[str, str], owner: str
) -> RateLimitError | InsufficientQuotaError:
    """The error for a refused request. `owner` is that of the limits, such as `this API key`."""
    limits = request.limits
    again = f"Try again in {duration(decision.wait_ms)}."
    of_owner = f"{owner[0].upper()}{owner[1:]}'s"
    if decision.refused == "budget":
        budget = _budget(request, decision)
        return InsufficientQuotaError(
            f"{of_owner} budget of {_named(budget)} has no room for {_least(request, budget)} more. The next"
            f" {budget.period} begins in {duration(decision.wait_ms)}; ask the operator for a larger budget"
            " if you need one.",
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
        budget = _budget(request, decision)
        problem = (
            f"Running requests have reserved so much of {owner}'s budget of {_named(budget)} that"
            f" {_least(request, budget)} more do not fit; what they do not use is free again when they end."
        )
    else:
        problem = f"Too many requests at once: {owner}'s limit of concurrency is {limits.concurrent_requests}"
        problem += "." if request.requests == 1 else f", and this call makes {request.requests}."
    return RateLimitError(f"{problem} {again}", wait_ms=decision.wait_ms, headers=headers)


def never_fits(
    *, prompt_tokens: int, completion_tokens: int, limits: Limits, owner: str
) -> InvalidRequestError:
    """The error for a request that exceeds the whole limit, so that waiting does not help."""
    period = "minute"
    if limits.tokens != limits.tokens_per_minute:
        whole = (each for each in limits.counted if each.unit == "tokens" and each.hard == limits.tokens)
        period = next(whole).period
    return InvalidRequestError(
        f"This request may use {prompt_tokens + completion_tokens} tokens ({prompt_tokens} of the prompt and"
        f" {completion_tokens} of the completion), more than {owner}'s limit of {limits.tokens} tokens a"
        f" {period}. Shorten it, or ask for fewer tokens.",
        code="tokens_exceed_limit",
    )


def too_many_requests(requests: int, *, limits: Limits, owner: str) -> InvalidRequestError:
    """The error for a call that makes more requests of the engine than the limit allows at all."""
    at_once = limits.requests == limits.concurrent_requests
    return InvalidRequestError(
        f"This call makes {requests} requests, one for each choice of each prompt; {owner}'s limit is"
        f" {limits.requests} {'at once' if at_once else 'a minute'}. Ask for fewer choices, or send fewer"
        " prompts in a call.",
        code="requests_exceed_limit",
    )


def _budget(request: ReservationRequest, decision: Decision) -> Budget:
    assert decision.budget is not None
    return request.limits.counted[decision.budget]


def _named(budget: Budget) -> str:
    assert budget.hard is not None
    amount = amount_text(budget.unit, budget.hard)
    return f"{amount}{' tokens' if budget.unit == 'tokens' else ''} a {budget.period} (UTC)"


def _least(request: ReservationRequest, budget: Budget) -> str:
    """The least amount that the request would use of the budget."""
    if budget.unit == "tokens":
        return str(request.tokens - request.optional_tokens)
    return cost_text(request.cost - request.optional_tokens * request.token_cost)
