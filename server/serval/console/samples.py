"""Figures of the last two minutes: the metrics are sampled when a page asks, and samples are compared."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

_WINDOW_S: Final = 120.0
# Samples that are closer are not kept: a difference over less says little.
_APART_S: Final = 1.0


class Sample(Struct, frozen=True):
    """Sums over all workers at one time, of a monotonic clock in seconds."""

    at: float
    in_flight: int
    waiting: int
    tokens: Mapping[str, float]
    errors: Mapping[str, float]
    # Requests whose first token came within each bound in seconds, the last of which is infinite.
    first_token: Sequence[tuple[float, float]]


class Figures(Struct, frozen=True):
    """The present load, and what happened over the last `seconds`; None where nothing did.

    `cache_hit` is the share of the prompts' tokens that the engine's cache held.
    """

    running: int
    waiting: int
    seconds: float
    tokens_per_s: float
    prompt_tokens_per_s: float
    cache_hit: float | None
    first_token_p50_s: float | None
    first_token_p99_s: float | None
    # By code, since the start.
    errors: Mapping[str, int]


class Samples:
    """The samples of the last two minutes."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._kept: deque[Sample] = deque()

    def figures(self, exposition: bytes) -> Figures:
        """Take a sample of the metrics in Prometheus's text format, and compare it with the oldest one."""
        sample = _sample(exposition.decode(), at=self._now())
        while self._kept and self._kept[0].at < sample.at - _WINDOW_S:
            self._kept.popleft()
        if not self._kept or sample.at - self._kept[-1].at >= _APART_S:
            self._kept.append(sample)
        oldest = self._kept[0]
        if sample.at - oldest.at < _APART_S:
            # Nobody looked before: since the start.
            oldest = Sample(self._began, 0, 0, {}, {}, ())
        return _compared(oldest, sample)


def _sample(text: str, *, at: float) -> Sample:
    in_flight = waiting = 0.0
    tokens: dict[str, float] = {}
    errors: dict[str, float] = {}
    first_token: list[tuple[float, float]] = []
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            match each.name:
                case "serval_requests_in_flight":
                    in_flight += each.value
                case "serval_queue_depth":
                    waiting += each.value
                case "serval_tokens_total":
                    tokens[each.labels["kind"]] = each.value
                case "serval_errors_total":
                    errors[each.labels["code"]] = each.value
                case "serval_time_to_first_token_seconds_bucket":
                    first_token.append((float(each.labels["le"]), each.value))
    return Sample(at, int(in_flight), int(waiting), tokens, errors, sorted(first_token))


def _compared(then: Sample, now: Sample) -> Figures:
    seconds = max(now.at - then.at, _APART_S)
    used = {kind: count - then.tokens.get(kind, 0.0) for kind, count in now.tokens.items()}
    before = dict(then.first_token)
    buckets = [(bound, count - before.get(bound, 0.0)) for bound, count in now.first_token]
    prompt = used.get("prompt", 0.0)
    return Figures(
        # The request that asks for the figures is none of them.
        running=max(0, now.in_flight - now.waiting - 1),
        waiting=now.waiting,
        seconds=seconds,
        tokens_per_s=used.get("completion", 0.0) / seconds,
        prompt_tokens_per_s=prompt / seconds,
        cache_hit=used.get("cached", 0.0) / prompt if prompt > 0 else None,
        first_token_p50_s=quantile(buckets, 0.5),
        first_token_p99_s=quantile(buckets, 0.99),
        errors={code: int(count) for code, count in sorted(now.errors.items()) if count},
    )


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Return the quantile of a histogram of cumulative counts by upper bound, as PromQL estimates it.

    None if nothing was counted. One beyond the last finite bound is that bound.
    """
    if not buckets or buckets[-1][1] <= 0:
        return None
    wanted = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (wanted - below) / (count - below) if count > below else lower
        lower, below = bound, count
    return lower
