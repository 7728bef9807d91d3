"""Summary of a run: percentiles, rates, and the share that met an objective."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serval_load.statistics import percentile
from serval_load.workloads.driver import Request

PERCENTS = (50, 90, 99)


@dataclass(frozen=True)
class Objective:
    """Bounds for a good request: first token and mean gap between tokens, in seconds."""

    first_s: float = 2.0
    gap_s: float = 0.1

    def met(self, request: Request) -> bool:
        """True if the request was complete and fast enough."""
        if not request.complete or request.first_s is None or request.first_s > self.first_s:
            return False
        gaps = request.gaps_s
        return not gaps or sum(gaps) / len(gaps) <= self.gap_s


@dataclass(frozen=True)
class Summary:
    """Figures of one run at one rate. Tuples hold the percentiles of `PERCENTS`, in seconds."""

    offered_per_s: float
    seconds: float
    requests: int
    complete: int
    failed: int
    vanished: int
    first_s: tuple[float, ...]
    gap_s: tuple[float, ...]
    end_s: tuple[float, ...]
    requests_per_s: float
    output_tokens_per_s: float
    # Requests per second that met the objective.
    goodput_per_s: float
    # Share of prompt tokens that the engine had in its cache.
    cached_share: float
    errors: dict[str, int]

    def as_object(self) -> dict[str, Any]:
        """JSON object of the summary."""
        return asdict(self)


def summarise(requests: Sequence[Request], *, offered_per_s: float, objective: Objective) -> Summary:
    """Compute the figures of a run. Raises `ValueError` without requests."""
    if not requests:
        raise ValueError("no request was made: raise --rate or --seconds")
    seconds = max(request.at + request.end_s for request in requests)
    complete = [request for request in requests if request.complete]
    errors = count_errors(requests)
    prompt = sum(request.prompt_tokens for request in complete)
    return Summary(
        offered_per_s=offered_per_s,
        seconds=seconds,
        requests=len(requests),
        complete=len(complete),
        failed=sum(errors.values()),
        vanished=sum(request.vanished for request in requests),
        first_s=percentiles([one.first_s for one in complete if one.first_s is not None]),
        gap_s=percentiles([gap for one in complete for gap in one.gaps_s]),
        end_s=percentiles([one.end_s for one in complete]),
        requests_per_s=len(complete) / seconds,
        output_tokens_per_s=sum(one.completion_tokens for one in complete) / seconds,
        goodput_per_s=sum(objective.met(one) for one in requests) / seconds,
        cached_share=sum(one.cached_tokens for one in complete) / prompt if prompt else 0.0,
        errors=errors,
    )


def count_errors(requests: Sequence[Request]) -> dict[str, int]:
    """Number of failed requests by status and reason; clients that left on purpose are none."""
    errors: dict[str, int] = {}
    for request in requests:
        if not request.complete and not request.vanished:
            reason = f"{request.status} {request.error[:80]}"
            errors[reason] = errors.get(reason, 0) + 1
    return errors


def percentiles(values: Sequence[float]) -> tuple[float, ...]:
    """Percentiles of `PERCENTS`."""
    return tuple(percentile(values, percent) for percent in PERCENTS)
