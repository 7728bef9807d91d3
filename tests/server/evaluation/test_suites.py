"""The suites, as far as they can be checked without their harnesses."""

import json
import re

import pytest

from serval.evaluation.environment import harness_version, lock_digest
from serval.evaluation.job import PROGRAMS
from serval.evaluation.runner import SAMPLES
from serval.evaluation.suites import suites
from serval_testkit.repository import ROOT

RUN = {name: suite for name, suite in suites().items() if not suite.needs}


@pytest.mark.parametrize("name", RUN)
def test_suite_has_a_program_and_a_lock(name: str) -> None:
    harness = RUN[name].harness
    assert PROGRAMS[harness].is_file()
    lock = (ROOT / f"server/serval/evaluation/locks/{harness}.lock").read_text()
    assert re.search(rf"^[\w-]+=={re.escape(harness_version(harness))} \\$", lock, re.MULTILINE)
    # A harness that brought torch would take minutes and gigabytes.
    assert not re.search(r"^(torch|nvidia|triton|transformers|sentence-transformers)\b", lock, re.MULTILINE)
    assert len(lock_digest(harness)) == 64


@pytest.mark.parametrize("name", suites())
def test_suite_is_described(name: str) -> None:
    assert f"`{name}`" in (ROOT / "server/EVALUATION.md").read_text()


def test_samples_have_the_answers_that_their_solutions_compute() -> None:
    lines = (SAMPLES / "openai/gsm8k/main/test.jsonl").read_text().splitlines()
    assert len(lines) == 24
    assert len({json.loads(line)["question"] for line in lines}) == 24
    for line in lines:
        solution, _, answer = json.loads(line)["answer"].rpartition("\n#### ")
        steps = re.findall(r"<<([\d +*/-]+)=(\d+)>>", solution)
        assert steps
        assert all(eval(expression) == int(value) for expression, value in steps)  # noqa: S307  # our own file
        assert answer == steps[-1][1]
