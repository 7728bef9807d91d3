"""The suites that can be run, read from `suites.toml`."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

_FILE: Final = Path(__file__).with_name("suites.toml")
# Settings that the paper gives for no suite.
ALWAYS_OPEN: Final = ("temperature", "top_p", "longest answer", "prompts", "harness and its version")


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A harness, its tasks, and the paper's figure for them.

    `tasks_folder` is where lm-eval defines the tasks, within its own; `metric` is its name of the score of
    one problem, and of the filter of its answers. `trials` is how often each problem is asked.
    `paper` is in per cent; None if the paper has no such figure. `choices` are settings that we chose because
    the paper leaves them open. A suite with `needs` is not run: it says what a user has to provide.
    `sample`: its data set is shipped.
    """

    title: str
    harness: str
    tasks: tuple[str, ...]
    tasks_folder: str = ""
    metric: str = ""
    data_sets: tuple[str, ...] = ()
    sample: bool = False
    trials: int = 1
    paper: float | None = None
    paper_setting: str = ""
    elsewhere: str = ""
    choices: tuple[str, ...] = ()
    needs: str = ""


@cache
def suites() -> dict[str, Suite]:
    """Return all suites by name, in the order of the file."""
    return msgspec.convert(tomllib.loads(_FILE.read_text(encoding="utf-8")), dict[str, Suite])
