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
    assert ratios([own, other, slow]).splitlines() == [
        "- beside other 1.0: 3 times the CPU of a whole answer, 3 times that of a streamed frame,"
        " 1/2 of the requests/s, 300 stall-free streams to its 600",
        "- beside slow 1.0: 1/30 of the CPU of a whole answer, 1/20 of that of a streamed frame,"
        " 20 times the requests/s, 300 stall-free streams to its 100",
    ]


def test_ratios_name_the_limit_of_the_machine() -> None:
    own = system("serval", cpu=300, per_s=1000, frame=150, held=300)
    other = system("other", cpu=100, per_s=2000, frame=50, held=200)
    for held, said in ((200, " (and 200 without a gateway)"), (400, "")):
        direct = system("direct", cpu=0, per_s=5000, frame=0, held=held)
        assert ratios([direct, own, other]).endswith(f"300 stall-free streams to its 200{said}\n")


def test_replace_section_refuses_a_document_without_markers() -> None:
    with pytest.raises(ValueError, match="ratios: begin"):
        replace_section("# Title\n", "ratios", "- a line\n")
