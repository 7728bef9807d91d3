"""A trial with a small harness of our own: interrupted, resumed, and failing."""

import asyncio
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from serval.evaluation.error import EvaluationError
from serval.evaluation.job import Job
from serval.evaluation.outcomes import Outcome
from serval.evaluation.recorder import Sampling
from serval.evaluation.trial import Server, run_trial
from serval_testkit.evaluation import AskedServer
from serval_testkit.processes import is_running

HARNESS = """
import json, os, sys, urllib.request
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
out = Path(job["out"])
assert list(out.iterdir()) == [out / "log.txt"], "files of an earlier run"
assert not [name for name in os.environ if name.startswith("SERVAL_")]
assert os.environ["OPENAI_BASE_URL"] == job["base_url"]
(out / "pid").write_text(str(os.getpid()))
with (out / "outcomes.jsonl").open("w") as file:
    for problem in range(job["limit"]):
        body = json.dumps({"model": job["model"], "messages": [{"role": "user", "content": str(problem)}]})
        request = urllib.request.Request(job["base_url"] + "/chat/completions", body.encode(), method="POST")
        request.add_header("authorization", "Bearer " + os.environ["OPENAI_API_KEY"])
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)["choices"][0]["message"]["content"]
        file.write(json.dumps({"task": "t", "id": str(problem), "score": float(answer)}) + "\\n")
"""
JOB = Job(
    base_url="", model="m", tasks=(), tasks_folder="", metric="", limit=3, concurrency=1, data=None, out=""
)


async def trial(
    folder: Path, server: AskedServer, harness: str = HARNESS, patience_s: float = 60
) -> list[Outcome]:
    program = folder / "harness.py"
    program.write_text(dedent(harness))
    return await run_trial(
        folder / "trial",
        [sys.executable, "-S", str(program)],
        JOB,
        server=Server(server.root_url, "sk-x", "m", patience_s),
        sampling=Sampling(0, 1, None, 0),
        say=lambda _: None,
    )


async def test_interrupted_trial_asks_only_for_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVAL_API_KEY", "sk-not-for-harnesses")
    async with AskedServer().running() as server:
        server.holds_above = 2
        running = asyncio.create_task(trial(tmp_path, server))
        held = asyncio.create_task(server.holding.wait())
        # A harness that fails would leave the server waiting.
        await asyncio.wait({running, held}, return_when=asyncio.FIRST_COMPLETED)
        assert held.done(), running.exception()
        harness = int((tmp_path / "trial/harness/pid").read_text())
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not is_running(harness)
        assert [each["messages"][0]["content"] for each in server.requests] == ["0", "1", "2"]
        server.holds_above = 1_000_000
        expected = [Outcome("t", "0", 1.0), Outcome("t", "1", 2.0), Outcome("t", "2", 4.0)]
        assert await trial(tmp_path, server) == expected
        assert len(server.requests) == 4
        # A trial that is finished runs nothing.
        assert await trial(tmp_path, server, harness="raise SystemExit(9)") == expected


async def test_trial_ends_with_the_server_and_goes_on_with_it(tmp_path: Path) -> None:
    async with AskedServer().running() as server:
        server.statuses = [200, 401]
        with pytest.raises(EvaluationError, match=r"status 401.*Run the same command again"):
            await trial(tmp_path, server)
        assert [each.score for each in await trial(tmp_path, server)] == [1.0, 3.0, 4.0]


async def test_trial_says_why_the_harness_failed(tmp_path: Path) -> None:
    async with AskedServer().running() as server:
        with pytest.raises(EvaluationError, match=r"ended with 1 \(.*log.txt\): ValueError: no such task"):
            await trial(tmp_path, server, harness="raise ValueError('no such task')")


async def test_trial_without_outcomes_is_an_error(tmp_path: Path) -> None:
    async with AskedServer().running() as server:
        with pytest.raises(EvaluationError, match="outcomes"):
            await trial(tmp_path, server, harness="")
