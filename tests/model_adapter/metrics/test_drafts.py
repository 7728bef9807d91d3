"""The counters of drafts have what verifications accepted."""

from prometheus_client import REGISTRY

from serval_sglang.metrics.drafts import count_drafts


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"serval_engine_{name}", labels) or 0.0


def test_count_drafts_counts_by_position() -> None:
    count_drafts(3, [0, 1, 3, 3])
    assert sample("verifications_total") == 4
    assert sample("drafted_tokens_total") == 12
    assert [sample("accepted_tokens_total", position=str(place)) for place in (1, 2, 3)] == [3, 2, 2]
    assert sample("draft_steps") == 3
    count_drafts(0, [0, 0])
    assert sample("verifications_total") == 6
    assert sample("drafted_tokens_total") == 12
    assert sample("draft_steps") == 0
