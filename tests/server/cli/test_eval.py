"""`serval eval` before it runs anything: suites, data sets, and the server's facts."""

import asyncio
from pathlib import Path

import pytest

from serval.cli import main
from serval.evaluation.server_facts import server_facts
from serval_testkit.gateway import API_KEY, MODEL, running_gateway
from serval_testkit.processes import free_port


def test_eval_lists_suites_with_the_papers_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "66.78 avg@16" in rows["gpqa"]
    assert "not run here" in rows["tau2-airline"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "name a suite: gsm8k"),
        (["gsm9k"], "there is no suite 'gsm9k'"),
        (["tau2-airline"], "the package tau2 of PyPI is another program"),
        (["gsm8k", "--data", "/nowhere"], "hf download --repo-type dataset openai/gsm8k"),
        # The suite that could be run is not begun.
        (["gsm8k-sample", "swe-bench"], "swe-bench is not run by this command. It needs Docker"),
    ],
)
def test_eval_says_what_is_missing_before_it_asks_the_server(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    assert main(["eval", *arguments, "--url", url, "--out", str(tmp_path / "out")]) == 1
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


async def test_server_facts_are_those_of_the_gateway() -> None:
    async with running_gateway() as gateway:
        gateway.engine.weight_version = "sha256:1"
        facts = await asyncio.to_thread(server_facts, f"{gateway.url}/v1", API_KEY, MODEL)
    assert facts.version.startswith("Serval")
    nobody = await asyncio.to_thread(server_facts, f"http://127.0.0.1:{free_port()}/v1", None, MODEL)
    assert (nobody.version, nobody.checkpoint) == ("", "")
