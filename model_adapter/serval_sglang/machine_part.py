"""Part of a machine for one of several engines on it: which GPUs and which CPUs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

_FORM = re.compile(r"(\d{1,3})/(\d{1,3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class MachinePart:
    """The part ``index``, counted from 0, of ``of`` equal parts."""

    index: int
    of: int

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


def machine_part(text: str) -> MachinePart:
    """Parse a part such as ``0/2``, as an argparse type."""
    form = _FORM.fullmatch(text)
    if form is None or not int(form[1]) < int(form[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part counted from 0, such as 0/2 and 1/2")
    return MachinePart(int(form[1]), int(form[2]))


def gpus_of(part: MachinePart, gpus_each: int, visible: str | None) -> str:
    """Return CUDA_VISIBLE_DEVICES for the part; ``visible`` is that of the whole machine, if it is set."""
    first, end = part.index * gpus_each, (part.index + 1) * gpus_each
    devices = visible.split(",") if visible else [str(number) for number in range(end)]
    return ",".join(devices[first:end])


def cpus_of(part: MachinePart, cpus: Sequence[int]) -> Sequence[int]:
    """Return the CPU ids of the part; with fewer CPUs than parts, parts share."""
    size = max(1, len(cpus) // part.of)
    first = part.index * size % len(cpus)
    return cpus[first : first + size]
