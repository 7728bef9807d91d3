"""Running a suite: its environment, its trials in order, its result."""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from serval.evaluation.environment import prepare
from serval.evaluation.error import EvaluationError, HarnessError
from serval.evaluation.job import PROGRAMS, Job
from serval.evaluation.manifest import Manifest, keep
from serval.evaluation.outcomes import Outcome
from serval.evaluation.recorder import Sampling
from serval.evaluation.recording import Exchange, Recording
from serval.evaluation.report import report
from serval.evaluation.result import Result, result_of
from serval.evaluation.suites import Suite
from serval.evaluation.trial import REQUESTS_FILE, Server, run_trial

SAMPLES: Final = Path(__file__).with_name("samples")


def check(name: str, suite: Suite, data: Path | None) -> Path | None:
    """Return the folder of the suite's data sets; None where the harness ships them, or asks the hub.

    Raises `EvaluationError` if the suite cannot be run, and says what a user has to provide.
    """
    if suite.needs:
        raise EvaluationError(f"{name} is not run by this command. It needs {suite.needs}")
    folder = SAMPLES if suite.sample else data
    missing = [each for each in suite.data_sets if folder is not None and not (folder / each).is_dir()]
    if missing:
        raise EvaluationError(
            f"{name} needs the data set {missing[0]}, and there is no folder {folder}/{missing[0]}: "
            f"`hf download --repo-type dataset {missing[0]} --local-dir {folder}/{missing[0]}`"
        )
    return folder if suite.data_sets else None


async def run_suite(
    suite: Suite, settings: Manifest, server: Server, *, folder: Path, cache: Path, say: Callable[[str], None]
) -> str:
    """Run what is missing of a suite below `folder`, and return the report. Raises `EvaluationError`."""
    with _locked(folder):
        settings = keep(folder, settings)
        trials, exchanges = await _run_trials(suite, settings, server, folder=folder, cache=cache, say=say)
        result = result_of(trials, exchanges)
        _write(folder / "result.json", result)
    return report(suite, settings, result, folder)


async def _run_trials(
    suite: Suite, settings: Manifest, server: Server, *, folder: Path, cache: Path, say: Callable[[str], None]
) -> tuple[list[Sequence[Outcome]], list[Exchange]]:
    python = prepare(suite.harness, cache, say=say)
    job = Job(
        base_url="",
        model=settings.model,
        tasks=settings.tasks,
        tasks_folder=suite.tasks_folder,
        metric=suite.metric,
        limit=settings.limit,
        concurrency=settings.concurrency,
        data=settings.data,
        out="",
    )
    trials: list[Sequence[Outcome]] = []
    exchanges: list[Exchange] = []
    for number in range(settings.trials):
        place = f"{settings.suite}, trial {number + 1} of {settings.trials}"
        trial = folder / f"trial-{number + 1:03}"
        sampling = Sampling(settings.temperature, settings.top_p, settings.max_tokens, settings.seed + number)
        command = [str(python), str(PROGRAMS[suite.harness])]
        try:
            trials.append(
                await run_trial(
                    trial, command, job, server=server, sampling=sampling, say=partial(_say_at, say, place)
                )
            )
        except HarnessError as error:
            raise EvaluationError(f"{place}: {error}{_hub_hint(suite, settings)}") from error
        except EvaluationError as error:
            raise EvaluationError(f"{place}: {error}") from error
        with closing(Recording(trial / REQUESTS_FILE)) as recording:
            exchanges += recording.exchanges
    return trials, exchanges


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; its lock ends with it. Raises `EvaluationError` if another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(f"another command is running in {folder}") from None
        yield


def _say_at(say: Callable[[str], None], place: str, text: str) -> None:
    say(f"{place}: {text}")


def _hub_hint(suite: Suite, settings: Manifest) -> str:
    if settings.data is not None or not suite.data_sets:
        return ""
    return f". Without --data it reads {', '.join(suite.data_sets)} from the hub"


def _write(path: Path, result: Result) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    os.replace(unfinished, path)
