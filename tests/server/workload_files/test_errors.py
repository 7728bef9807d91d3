"""Lines at which values of a JSON document begin."""

import json

import pytest

from serval.workload_files.errors import line_of

DOCUMENT = '{\n "a": [1,\n  {"b": "x, ]",\n   "c": [\n    2,\n    3]}],\n "d":\n  4\n}'


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ((), 1),
        (("a",), 2),
        (("a", 0), 2),
        (("a", 1), 3),
        (("a", 1, "c"), 4),
        (("a", 1, "c", 1), 6),
        (("d",), 8),
        # The value around a step that leads nowhere.
        (("a", 7), 2),
        (("a", 1, "z"), 3),
        (("d", "z"), 8),
        (("d", 0), 8),
    ],
)
def test_line_of_finds_the_beginning_of_a_value(steps: tuple[str | int, ...], line: int) -> None:
    json.loads(DOCUMENT)
    assert line_of(DOCUMENT, steps) == line
