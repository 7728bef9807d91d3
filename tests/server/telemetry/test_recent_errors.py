"""The last errors of a process."""

from serval.telemetry.metrics import Metrics
from serval.telemetry.recent_errors import KEPT
from serval.telemetry.record import RequestRecord


def ended(number: int, code: str | None) -> RequestRecord:
    return RequestRecord(request_id=f"req_{number}", method="GET", route="/", error_code=code, status=400)


def test_recent_errors_are_the_last_ones_and_bounded() -> None:
    metrics = Metrics()
    for number in range(KEPT + 10):
        metrics.request_over(ended(number, "invalid_value"))
    metrics.request_over(ended(1000, None))
    kept = metrics.recent_errors.latest_first()
    assert len(kept) == KEPT
    assert (kept[0].request_id, kept[0].code, kept[0].status) == (f"req_{KEPT + 9}", "invalid_value", 400)
    assert kept[-1].request_id == "req_10"
