"""Parts of a machine for several engines on it."""

import argparse

import pytest

from serval_sglang.machine_part import MachinePart, cpus_of, gpus_of, machine_part


def test_machine_part_reads_its_own_text() -> None:
    assert machine_part("1/2") == MachinePart(1, 2)
    assert str(machine_part("0/8")) == "0/8"


@pytest.mark.parametrize("text", ["", "2/2", "0/0", "-1/2", "1", "1/2/3", "a/b", "٠/2"])
def test_machine_part_refuses_what_is_no_part(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 0/2 and 1/2"):
        machine_part(text)


@pytest.mark.parametrize(
    ("each", "visible", "parts"),
    [
        (1, None, ["0", "1", "2"]),
        (2, "", ["0,1", "2,3", "4,5"]),
        (2, "7,6,5,4,GPU-3,GPU-2", ["7,6", "5,4", "GPU-3,GPU-2"]),
    ],
)
def test_gpus_of_divides_the_visible_gpus(each: int, visible: str | None, parts: list[str]) -> None:
    assert [gpus_of(MachinePart(index, 3), each, visible) for index in range(3)] == parts


@pytest.mark.parametrize(
    ("cpus", "parts"),
    [([0, 1, 2, 3], [[0, 1], [2, 3]]), ([4, 5, 6], [[4], [5]]), ([9], [[9], [9]])],
)
def test_cpus_of_divides_the_cpus(cpus: list[int], parts: list[list[int]]) -> None:
    assert [cpus_of(MachinePart(index, 2), cpus) for index in range(2)] == parts
