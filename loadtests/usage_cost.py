"""Cost of counting a request's usage, in memory alone and with a journal, beside that of its limits.

    python loadtests/usage_cost.py

Prints microseconds of CPU time for each request. Compare only figures of one run.
"""

import tempfile
import time
from pathlib import Path

from serval.store.database import open_database
from serval.store.usage import UsageTable
from serval.telemetry.record import RequestRecord
from serval.usage.recorder import UsageRecorder

ROUNDS = 20_000
REPEATS = 5
KEYS = 100


def main() -> None:
    """Print one line for each way; the fastest of several repeats counts."""
    with tempfile.TemporaryDirectory() as folder:
        table = UsageTable(open_database(f"{folder}/keys.db"))
        for name, journal in (("in memory", None), ("with a journal", Path(folder))):
            best = min(_round_us(table, journal) for _ in range(REPEATS))
            print(f"{name}: {best:.2f} us a request")


def _round_us(table: UsageTable, journal: Path | None) -> float:
    recorder = UsageRecorder(table, model="m", keep_days=1, journal=journal, dropped=lambda *_: None)
    records = [
        RequestRecord(
            request_id="r",
            method="POST",
            route="/v1/chat/completions",
            subject=f"{number % KEYS:012x}",
            prompt_tokens=800,
            completion_tokens=100,
        )
        for number in range(ROUNDS)
    ]
    began = time.process_time()
    for record in records:
        recorder.count(record)
    return (time.process_time() - began) / ROUNDS * 1e6


if __name__ == "__main__":
    main()
