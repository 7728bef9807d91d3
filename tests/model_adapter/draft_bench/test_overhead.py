"""The comparison of times against stand-ins for engines, which take a known time."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serval_sglang.draft_bench import overhead
from serval_sglang.draft_bench.overhead import Turn, main, summary, take_turn
from serval_sglang.launch import SKIP_LAYER
from serval_sglang.verify.engine import Engine, EngineFailed


def test_summary_compares_each_turn_with_the_one_beside_it() -> None:
    plain = [Turn(1.0, 2.0, 0, 0), Turn(4.0, 2.0, 0, 0), Turn(2.0, 2.0, 0, 0)]
    turns = [Turn(1.5, 2.0, 30, 10), Turn(4.0, 3.0, 0, 10), Turn(4.0, 2.2, 0, 20)]
    assert summary(turns, plain) == "time 1.50 (1.00 to 2.00), CPU time 1.10 (1.00 to 1.50), 0.75 steps"


class StandIn:
    """Draws up three drafts for each pass. Its process is this one."""

    launcher_pid = os.getpid()

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def post(self, _: str, body: Any) -> Any:
        self.asked.append(body)

    def metric_total(self, name: str) -> float:
        return len(self.asked) * {"drafted": 30.0, "verifications": 10.0}[name.split("_")[2]]


def test_take_turn_counts_its_own_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = StandIn()
    engine.post("", {})
    seconds = itertools.count(1.0)
    monkeypatch.setattr(overhead, "_cpu_seconds", lambda _: next(seconds) ** 2)
    turn = take_turn(engine, [(1, 2), (3,)], new_tokens=5)
    assert engine.asked[-1]["input_ids"] == [[1, 2], [3]]
    assert (turn.cpu_seconds, turn.drafted, turn.passes) == (3.0, 30.0, 10.0)


def test_cpu_seconds_are_those_of_the_processes() -> None:
    before = overhead._cpu_seconds(os.getpid())
    for _ in range(3_000_000):
        pass
    assert overhead._cpu_seconds(os.getpid()) > before > 0


@pytest.mark.parametrize("fails", [False, True])
def test_overhead_runs_three_engines_side_by_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, fails: bool
) -> None:
    started: list[Any] = []

    @contextmanager
    def running(_: Path, **named: Any) -> Iterator[Any]:
        started.append((named["mtp_steps"], named["environment"].get(SKIP_LAYER), named["mtp_fixed"]))
        yield StandIn()

    def turn(engine: Engine, asked: Any, *, new_tokens: int) -> Turn:
        if fails:
            raise EngineFailed("it ended")
        return Turn(1.0, 1.0, 6.0, 3.0)

    monkeypatch.setattr(overhead, "running_engine", running)
    monkeypatch.setattr(overhead, "take_turn", turn)
    monkeypatch.setattr(overhead, "documented", lambda _: [(1, 2)])
    assert main(["--model", "x", "--documented", "--steps", "2", "--batches", "4"]) == int(fails)
    assert started == [(0, None, False), (2, None, False), (2, "0", False)]
    said = capsys.readouterr()
    assert said.err.endswith("it ended\n") is fails
    ratios = "time 1.00 (1.00 to 1.00), CPU time 1.00 (1.00 to 1.00), 2.00 steps"
    expected = [f"batch 4, chosen steps: {ratios}", f"batch 4, chosen steps, layer in every pass: {ratios}"]
    assert said.out.splitlines() == ([] if fails else expected)
