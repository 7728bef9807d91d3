"""The work of a harness's program: one trial of a suite."""

from pathlib import Path
from typing import Final

import msgspec

PROGRAMS: Final = {
    harness: Path(__file__).with_name("programs") / file
    for harness, file in {"lm-eval": "lm_eval_run.py", "bfcl": "bfcl_run.py"}.items()
}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A program's argument, as a JSON file.

    `base_url` is the recorder's and ends in `/v1`. `limit` is the number of problems of each task; None: all.
    `data` is a folder with the data sets by their names on the hub. The program writes below `out`, at its
    end `outcomes.jsonl` (`serval.evaluation.outcomes`).
    """

    base_url: str
    model: str
    tasks: tuple[str, ...]
    tasks_folder: str
    metric: str
    limit: int | None
    concurrency: int
    data: str | None
    out: str
