"""Stored figures of the comparison, from which table, picture and the README's ratios are made."""

from pathlib import Path

import pytest

from serval_load.compare.figures import Comparison, ratios, read_comparison
from serval_load.compare.measure import Result, Streams
from serval_load.compare.table import markdown
from serval_load.compare.wrk import Rate
from serval_load.report.comparison import picture
from serval_load.report.sections import replace_section

ROOT = Path(__file__).resolve().parents[2]
LOADTESTS = ROOT / "loadtests"
AGAIN = "loadtests/comparison/run.sh, or serval_load compare --figures, writes all of it"


@pytest.fixture(scope="module")
def stored() -> Comparison:
    return read_comparison(LOADTESTS / "comparison/figures.json")


def test_table_ratios_and_picture_match_the_stored_figures(stored: Comparison) -> None:
    results = (LOADTESTS / "RESULTS.md").read_text()
    assert (
        replace_section(results, "comparison", markdown(stored.results, machine=stored.machine)) == results
    ), AGAIN
    readme = (ROOT / "README.md").read_text()
    assert replace_section(readme, "ratios", ratios(stored.results)) == readme, AGAIN
    assert picture(stored.results) == (LOADTESTS / "plots/comparison.svg").read_text(), AGAIN


def system(name: str, *, cpu: float, per_s: float, frame: float, held: int) -> Result:
    streams = [
        Streams(50, 2500.0, frame, 50, 21.0, 1.0, 80.0, 0),
        Streams(held, 50.0 * held, frame, held, 21.0, 1.0, 80.0, 0),
        Streams(2 * held, 75.0 * held, frame, held, 90.0, 1.0, 80.0, 0),
    ]
    return Result(name, "1.0", rates=[Rate(32, per_s, 1.0, 2.0, 0)], cpu_us_per_request=cpu, streams=streams)


def test_ratios_tell_more_from_less() -> None:
    own = system("serval", cpu=300, per_s=1000, frame=150, held=300)
    other = system("other", cpu=100, per_s=2000, frame=50, held=600)
    slow = system("slow", cpu=9000, per_s=50, frame=3000, held=100)
    head, _, *rows = ratios([own, other, slow]).splitlines()
    assert head.count("less is better") == head.count("more is better") == 2
    assert rows == [
        "| other 1.0 | 3 times | 3 times | 1/2 | 300 to 600 |",
        "| slow 1.0 | 1/30 | 1/20 | 20 times | 300 to 100 |",
    ]


def test_ratios_tell_what_was_not_measured() -> None:
    own = system("serval", cpu=300, per_s=1000, frame=150, held=300)
    failed = system("other", cpu=100, per_s=2000, frame=50, held=200)
    failed.streams.clear()
    assert ratios([own, failed]).splitlines()[-1] == "| other 1.0 | 3 times | not measured | 1/2 | 300 to 0 |"


def test_ratios_name_the_limit_of_the_machine() -> None:
    own = system("serval", cpu=300, per_s=1000, frame=150, held=300)
    other = system("other", cpu=100, per_s=2000, frame=50, held=200)
    for held, said in ((200, "; without a gateway 200"), (400, "")):
        direct = system("direct", cpu=0, per_s=5000, frame=0, held=held)
        head = ratios([direct, own, other]).splitlines()[0]
        assert f"stall-free streams (more is better{said}) |" in head


def test_replace_section_refuses_a_document_without_markers() -> None:
    with pytest.raises(ValueError, match="ratios: begin"):
        replace_section("# Title\n", "ratios", "- a line\n")
