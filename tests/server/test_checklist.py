"""CHECKLIST.md is complete, and the tests it names exist."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROWS = re.findall(r"^\| (A?\d+) \| (.+?) \| (.+) \|$", (HERE / "CHECKLIST.md").read_text(), re.MULTILINE)


def test_checklist_has_every_line_once() -> None:
    expected = [str(number) for number in range(1, 91)] + [f"A{number}" for number in range(1, 26)]
    assert [number for number, _, _ in ROWS] == expected


@pytest.mark.parametrize("row", ROWS, ids=[number for number, _, _ in ROWS])
def test_line_names_existing_tests_or_a_reason(row: tuple[str, str, str]) -> None:
    names = re.findall(r"`([^`]+)`", row[2])
    if not names:
        assert row[2].startswith("no: ")
    for name in names:
        path, test = name.split("::")
        assert re.search(rf"^ *(async )?def {test}\(", (HERE / path).read_text(), re.MULTILINE), name
