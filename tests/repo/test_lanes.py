"""`make test` runs four pytest processes; their results are added up and none is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serval_testkit.lanes import add_up, summary, worst

LANES = Path(__file__).parents[1] / "support" / "serval_testkit" / "lanes.py"


def run_lanes(folder: Path, tests: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    engine: on the engine\n    programs: of programs\n    server: gateway's\n"
    )
    (folder / "test_it.py").write_text(f"import pytest\n\n{tests}")
    return subprocess.run(
        [sys.executable, LANES, *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=280,
        # Their imports take most of pytest's start.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip


ENGINE_TEST = "@pytest.mark.engine\ndef test_on_engine(): {}\n\n"
# As the rehearsal: an engine is among the programs that it starts.
PROGRAM_TEST = "@pytest.mark.programs\n@pytest.mark.engine\ndef test_programs(): {}\n\n"
SERVER_TEST = "@pytest.mark.server\ndef test_server(): {}\n\n"
OTHER_TESTS = "def test_other(): {}\n\ndef test_skipped(): pytest.skip('for no reason')\n\n"


@pytest.mark.parametrize(
    ("on_engine", "programs", "server", "other", "code", "counts"),
    [
        ("pass", "pass", "pass", "pass", 0, "4 passed, 0 failed, 1 skipped"),
        ("assert 0", "pass", "pass", "pass", 1, "3 passed, 1 failed, 1 skipped"),
        ("pass", "assert 0", "pass", "pass", 1, "3 passed, 1 failed, 1 skipped"),
        ("pass", "pass", "assert 0", "pass", 1, "3 passed, 1 failed, 1 skipped"),
        ("pass", "pass", "pass", "assert 0", 1, "3 passed, 1 failed, 1 skipped"),
        # Without a summary of its own, a lane has failed.
        ("import os; os._exit(9)", "pass", "pass", "pass", 9, "3 passed, 1 failed, 1 skipped"),
    ],
)
def test_lanes_add_up_results(
    tmp_path: Path, on_engine: str, programs: str, server: str, other: str, code: int, counts: str
) -> None:
    tests = ENGINE_TEST.format(on_engine) + PROGRAM_TEST.format(programs)
    tests += SERVER_TEST.format(server) + OTHER_TESTS.format(other)
    done = run_lanes(tmp_path, tests)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(f" s: {counts}")


def test_lanes_pass_arguments_on_and_allow_for_an_empty_lane(tmp_path: Path) -> None:
    done = run_lanes(tmp_path, ENGINE_TEST.format("pass") + OTHER_TESTS.format("assert 0"), "-k", "on_engine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" s: 1 passed, 0 failed, 0 skipped")


def test_lanes_without_any_test_end_as_pytest_does(tmp_path: Path) -> None:
    assert run_lanes(tmp_path, OTHER_TESTS.format("pass"), "-k", "nothing").returncode == 5


def test_lanes_leave_the_choice_by_marker_to_the_caller(tmp_path: Path) -> None:
    tests = ENGINE_TEST.format("pass") + OTHER_TESTS.format("assert 0")
    done = run_lanes(tmp_path, tests, "-m", "engine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 2 deselected" in done.stdout
    assert "all lanes" not in done.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1 failed, 3 passed, 2 skipped, 5 deselected in 0.01s", "3 passed, 1 failed, 2 skipped"),
        ("=== 70 passed, 1 error in 100.00s (0:01:40) ===", "70 passed, 1 failed, 0 skipped"),
        (
            "\x1b[32m\x1b[1m8 passed\x1b[0m, \x1b[33m1 warning\x1b[0m\x1b[32m in 9.9s\x1b[0m",
            "8 passed, 0 failed, 0 skipped",
        ),
        ("no tests ran in 0.02s", "0 passed, 0 failed, 0 skipped"),
        ("4 deselected in 0.02s", "0 passed, 0 failed, 0 skipped"),
        ("Segmentation fault", "0 passed, 1 failed, 0 skipped"),
    ],
)
def test_add_up_reads_the_last_line_of_pytest(line: str, expected: str) -> None:
    assert summary(add_up([f"tests/test_it.py ...\n{line}\n"])) == expected


def test_worst_code_is_that_of_the_failed_lane() -> None:
    assert [worst(codes) for codes in ([0, 0], [0, 5], [5, 5], [1, 0], [5, 1], [0, -9])] == [0, 0, 5, 1, 1, 9]
