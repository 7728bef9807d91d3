"""A suite with a harness of our own: its trials, its result, and its folder."""

import asyncio
import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import pytest

from serval.evaluation import runner
from serval.evaluation.error import EvaluationError
from serval.evaluation.runner import run_suite
from serval.evaluation.suites import Suite
from serval.evaluation.trial import Server
from serval_testkit.evaluation import MANIFEST, AskedServer

SUITE = Suite(title="Sums", harness="sums", tasks=("a",), data_sets=("owner/sums",), trials=2)
FAILING = "raise OSError('no route')"
HARNESS = """
import json, os, sys, urllib.request
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
body = json.dumps({"model": job["model"]}).encode()
headers = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
request = urllib.request.Request(job["base_url"] + "/chat/completions", body, headers)
urllib.request.urlopen(request).close()
with (Path(job["out"]) / "outcomes.jsonl").open("w") as file:
    file.write(json.dumps({"task": "a", "id": "0", "score": 1.0}))
"""


@pytest.fixture(params=[HARNESS])
def harness(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Program of a harness without an environment of its own."""
    program = tmp_path / "harness.py"
    program.write_text(dedent(request.param))
    monkeypatch.setattr(runner, "PROGRAMS", {"sums": program})
    monkeypatch.setattr(runner, "prepare", lambda *_, **__: "python3")
    return program


def run(server: AskedServer, folder: Path) -> Any:
    settings = msgspec.structs.replace(MANIFEST, trials=2, seed=7)
    place = Server(server.root_url, None, "m", 60)
    return run_suite(SUITE, settings, place, folder=folder, cache=folder, say=lambda _: None)


async def test_suite_asks_each_trial_with_a_seed_of_its_own(harness: Path, tmp_path: Path) -> None:
    async with AskedServer().running() as server:
        text = await run(server, tmp_path / "out")
        assert [request["seed"] for request in server.requests] == [7, 8]
        # Again: the result of answers that are there.
        assert await run(server, tmp_path / "out") == text
        assert len(server.requests) == 2
    assert "2 trials, seeds 7 to 8" in text
    assert json.loads((tmp_path / "out/result.json").read_text())["score"]["mean"] == 1.0


@pytest.mark.parametrize("harness", [FAILING], indirect=True)
async def test_suite_says_that_it_reads_the_hub_if_the_harness_fails(harness: Path, tmp_path: Path) -> None:
    async with AskedServer().running() as server:
        with pytest.raises(
            EvaluationError, match=r"no route\. Without --data it reads owner/sums from the hub"
        ):
            await run(server, tmp_path / "out")


async def test_suite_runs_once_at_a_time_in_a_folder(harness: Path, tmp_path: Path) -> None:
    async with AskedServer().running() as server:
        server.holds_above = 0
        first = asyncio.create_task(run(server, tmp_path / "out"))
        held = asyncio.create_task(server.holding.wait())
        await asyncio.wait({first, held}, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(EvaluationError, match="another command is running in"):
            await run(server, tmp_path / "out")
        server.go_on.set()
        await first
