"""Agents in a closed loop: what is counted of them."""

import pytest

from serval_load.cli import main
from serval_load.workloads.population import Asked, Outcome, Population, figures_of

POPULATION = Population(seconds=100.0)


def asked(at: float, waited_s: float, cached: int) -> Asked:
    return Asked(at, waited_s, prompt_tokens=100, cached_tokens=cached, known_tokens=80)


def test_figures_leave_out_the_beginning_and_count_good_answers() -> None:
    outcome = Outcome(POPULATION, [asked(5, 0, 0), asked(50, 1.0, 40), asked(60, 3.0, 60), asked(101, 0, 0)])
    figures = figures_of(outcome, good_s=2.0)
    assert (figures.found, figures.best) == (0.5, 0.8)
    assert figures.answers_per_s == pytest.approx(2 / 85)
    assert figures.good_per_s == pytest.approx(1 / 85)
    assert figures.first_token_p99_s == pytest.approx(3.0, abs=0.1)


def test_figures_of_no_answer_are_zero() -> None:
    figures = figures_of(Outcome(POPULATION), good_s=2.0)
    assert (figures.found, figures.best, figures.answers_per_s) == (0, 0, 0)


def test_conversations_command_runs_gateway_and_stand_ins(capsys: pytest.CaptureFixture[str]) -> None:
    """A few seconds of two agents: enough for the table, not for figures."""
    options = ["--seconds", "4", "--agents", "2", "--engines", "1", "--keys", "1", "--only", "whole"]
    assert main(["conversations", *options]) == 0
    (row,) = capsys.readouterr().out.splitlines()[2:]
    cells = row.strip("| ").split(" | ")
    assert cells[0] == "conversations whole"
    assert float(cells[5]) > 0
    assert cells[-1] == "0"
