"""Report of agents by concurrency: tokens a second of a user and of a place, first tokens, cache."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serval_load.report.chart import Series, document, panel
from serval_load.report.summary import PERCENTS, count_errors, percentiles
from serval_load.statistics import percentile
from serval_load.workloads.driver import Request


@dataclass(frozen=True)
class AgentSummary:
    """Figures of a run with so many agents at a time. Tuples hold the percentiles of `PERCENTS`, in seconds.

    - `user_tokens_per_s`: median over answers of tokens a second after the first token; NaN without any
    - `output_tokens_per_s`, `tokens_per_s`: of a place, the latter with prompts
    - `cached_share`: of all prompt tokens, those that the usage of the answers calls cached
    """

    agents: int
    places: int
    seconds: float
    sessions: int
    requests: int
    failed: int
    first_s: tuple[float, ...]
    user_tokens_per_s: float
    output_tokens_per_s: float
    tokens_per_s: float
    cached_share: float
    errors: dict[str, int]

    def as_object(self) -> dict[str, Any]:
        """JSON object of the summary."""
        return asdict(self)


def summarise_agents(requests: Sequence[Request], *, agents: int, places: int) -> AgentSummary:
    """Compute the figures of a run. Raises `ValueError` without requests."""
    if not requests:
        raise ValueError("no request was made: give more --conversations, or more --seconds")
    seconds = max(request.at + request.end_s for request in requests)
    complete = [request for request in requests if request.complete]
    output = sum(one.completion_tokens for one in complete)
    prompts = sum(one.prompt_tokens for one in complete)
    errors = count_errors(requests)
    return AgentSummary(
        agents=agents,
        places=places,
        seconds=seconds,
        sessions=len({request.session for request in requests}),
        requests=len(requests),
        failed=sum(errors.values()),
        first_s=percentiles([one.first_s for one in complete if one.first_s is not None]),
        user_tokens_per_s=percentile([*map(_speed, filter(_has_speed, complete))], 50),
        output_tokens_per_s=output / seconds / places,
        tokens_per_s=(output + prompts) / seconds / places,
        cached_share=sum(one.cached_tokens for one in complete) / prompts if prompts else 0.0,
        errors=errors,
    )


def _has_speed(request: Request) -> bool:
    return request.completion_tokens > 1 and request.first_s is not None and request.end_s > request.first_s


def _speed(request: Request) -> float:
    assert request.first_s is not None
    return (request.completion_tokens - 1) / (request.end_s - request.first_s)


def agents_table(summaries: Sequence[AgentSummary]) -> str:
    """Markdown table with a row for each number of agents."""
    shown = " / ".join(f"p{percent}" for percent in PERCENTS)
    lines = [
        f"| agents | sessions | requests (failed) | first token {shown}, ms | tokens/s a user"
        " | output tokens/s a place | all tokens/s a place | found in cache |",
        "| ---: |" + " ---: |" * 7,
    ]
    for one in summaries:
        cells = [
            f"{one.agents}",
            f"{one.sessions}",
            f"{one.requests} ({one.failed})",
            " / ".join(f"{value * 1e3:.0f}" for value in one.first_s),
            f"{one.user_tokens_per_s:.1f}",
            f"{one.output_tokens_per_s:,.0f}",
            f"{one.tokens_per_s:,.0f}",
            f"{one.cached_share:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def agents_picture(summaries: Sequence[AgentSummary]) -> str:
    """SVG: tokens a second of a user against those of a place, first tokens and cache by agents."""
    agents = [one.agents for one in summaries]
    pareto = sorted((one.user_tokens_per_s, one.tokens_per_s) for one in summaries)
    first = [
        Series(f"p{percent}", [(one.agents, one.first_s[place] * 1e3) for one in summaries])
        for place, percent in enumerate(PERCENTS)
    ]
    found = [(number, one.cached_share * 100) for number, one in zip(agents, summaries, strict=True)]
    output = [(one.agents, one.output_tokens_per_s) for one in summaries]
    return document(
        [
            panel(
                [Series("", pareto)],
                title="A user and a place",
                x="tokens/s a user",
                y="all tokens/s a place",
            ),
            panel(first, title="First token", x="agents", y="ms"),
            panel([Series("", found)], title="Prompt tokens found in cache", x="agents", y="%"),
            panel([Series("", output)], title="Output", x="agents", y="tokens/s a place"),
        ]
    )
