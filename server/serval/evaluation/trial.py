"""One trial of a suite: every problem asked once, in the harness's own process."""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from serval.evaluation.error import EvaluationError, HarnessError
from serval.evaluation.job import Job
from serval.evaluation.outcomes import OUTCOMES_FILE, Outcome, read_outcomes
from serval.evaluation.recorder import Recorder, Sampling
from serval.evaluation.recording import Recording
from serval.settings import child_environment

REQUESTS_FILE: Final = "requests.jsonl"
_REPORT_S: Final = 30.0
_STOP_S: Final = 10.0


@dataclass(frozen=True)
class Server:
    """The evaluated server. `root_url` has no `/v1`; `patience_s` as in `Recorder`."""

    root_url: str
    key: str | None
    model: str
    patience_s: float


async def run_trial(
    folder: Path,
    command: list[str],
    job: Job,
    *,
    server: Server,
    sampling: Sampling,
    say: Callable[[str], None],
) -> list[Outcome]:
    """Run one trial in its folder, unless its outcomes are there already.

    The harness starts anew each time, so that it never sees files of a run that was killed; requests that
    were answered before are answered from the recording. `job` lacks the recorder's address and the folder.
    Raises `EvaluationError` if the server or the harness fails.
    """
    finished = folder / OUTCOMES_FILE
    if finished.exists():
        return read_outcomes(finished)
    out = folder / "harness"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    recording = Recording(folder / REQUESTS_FILE)
    before = len(recording.exchanges)
    if before:
        say(f"{before} answers are there already")
    try:
        recorder = Recorder(server.root_url, server.key, sampling, recording, patience_s=server.patience_s)
        async with recorder.serving() as url:
            job = msgspec.structs.replace(job, base_url=url, out=str(out))
            job_file = folder / "job.json"
            job_file.write_bytes(msgspec.json.encode(job))
            await _run([*command, str(job_file)], job, recorder, lambda: say(_progress(recording, before)))
    finally:
        recording.close()
    outcomes = read_outcomes(out / OUTCOMES_FILE)
    os.replace(out / OUTCOMES_FILE, finished)
    return outcomes


async def _run(command: list[str], job: Job, recorder: Recorder, report: Callable[[], None]) -> None:
    """Run the harness to its end, or to the recorder's failure, and leave no process of it behind."""
    log = Path(job.out) / "log.txt"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=job.out,
            env=_environment(job, recorder.harness_key),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    ended = asyncio.create_task(process.wait())
    either: set[asyncio.Future[Any]] = {ended, recorder.failure}
    try:
        while not ended.done() and not recorder.failure.done():
            await asyncio.wait(either, timeout=_REPORT_S, return_when=asyncio.FIRST_COMPLETED)
            report()
    finally:
        await _stop(process, ended)
    if recorder.failure.done():
        raise EvaluationError(f"{recorder.failure.result()}. Run the same command again to go on")
    if process.returncode != 0:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise HarnessError(f"the harness ended with {process.returncode} ({log}): {''.join(last)}")


async def _stop(process: asyncio.subprocess.Process, ended: "asyncio.Task[int]") -> None:
    """End the harness and the processes that it started, which are a group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if ended.done():
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        await asyncio.wait({ended}, timeout=_STOP_S)


def _environment(job: Job, key: str) -> dict[str, str]:
    """Return this process's environment without its keys, and with the variables that harnesses read."""
    kept = {
        name: value
        for name, value in child_environment().items()
        if not name.startswith(("SERVAL_", "OPENAI_", "PYTHON"))
    }
    return kept | {
        "OPENAI_BASE_URL": job.base_url,
        # In no file, so that other users of this machine cannot read it.
        "OPENAI_API_KEY": key,
        "BFCL_PROJECT_ROOT": job.out,
        "HF_DATASETS_CACHE": f"{job.out}/datasets",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _progress(recording: Recording, before: int) -> str:
    fresh = len(recording.exchanges) - before
    return f"{len(recording.exchanges)} answers, {fresh} of them new"
