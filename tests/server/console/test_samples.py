"""Figures from two samples of the metrics."""

import pytest

from serval.console.samples import Samples, quantile


def exposition(
    *, in_flight: int = 1, waiting: int = 0, completion: int = 0, prompt: int = 0, cached: int = 0
) -> bytes:
    return f"""
serval_requests_in_flight {in_flight}
serval_queue_depth{{class="bulk"}} {waiting}
serval_queue_depth{{class="default"}} 0
serval_tokens_total{{kind="completion"}} {completion}
serval_tokens_total{{kind="prompt"}} {prompt}
serval_tokens_total{{kind="cached"}} {cached}
serval_errors_total{{code="x"}} 2
serval_errors_total{{code="y"}} 0
serval_time_to_first_token_seconds_bucket{{le="0.1"}} {completion // 2}
serval_time_to_first_token_seconds_bucket{{le="0.2"}} {completion}
serval_time_to_first_token_seconds_bucket{{le="+Inf"}} {completion}
""".encode()


def test_rates_are_those_between_samples() -> None:
    now = 0.0
    samples = Samples(lambda: now)
    samples.figures(exposition(completion=100, prompt=1000, cached=900))
    now = 10.0
    figures = samples.figures(exposition(completion=120, prompt=1400, cached=1000))
    assert (figures.seconds, figures.tokens_per_s, figures.prompt_tokens_per_s) == (10.0, 2.0, 40.0)
    assert figures.cache_hit == 0.25
    assert figures.first_token_p50_s == pytest.approx(0.1)
    assert figures.errors == {"x": 2}


def test_first_sample_is_compared_with_the_start() -> None:
    now = 0.0
    samples = Samples(lambda: now)
    now = 50.0
    assert samples.figures(exposition(completion=100)).tokens_per_s == 2.0


def test_samples_before_the_window_are_left_out() -> None:
    now = 0.0
    samples = Samples(lambda: now)
    for now in (0.0, 100.0, 200.0):
        figures = samples.figures(exposition(completion=int(now)))
    assert (figures.seconds, figures.tokens_per_s) == (100.0, 1.0)


def test_nothing_that_happened_is_not_a_zero() -> None:
    figures = Samples(lambda: 0.0).figures(exposition())
    assert (figures.cache_hit, figures.first_token_p50_s) == (None, None)


def test_request_for_the_figures_is_not_counted() -> None:
    figures = Samples(lambda: 0.0).figures(exposition(in_flight=8, waiting=5))
    assert (figures.running, figures.waiting) == (2, 5)


@pytest.mark.parametrize(("share", "found"), [(0.5, 1.0), (0.75, 2.0), (1.0, 3.0)])
def test_quantile_lies_between_the_bounds_of_its_bucket(share: float, found: float) -> None:
    assert quantile([(1.0, 2.0), (3.0, 4.0), (float("inf"), 4.0)], share) == found


def test_quantile_beyond_all_bounds_is_the_last_one() -> None:
    assert quantile([(1.0, 0.0), (float("inf"), 4.0)], 0.5) == 1.0
