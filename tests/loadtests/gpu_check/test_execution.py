"""Whole runs with stand-ins for steps: order, rows, results on disk, going on where the last run stopped."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from serval_load.gpu_check import process
from serval_load.gpu_check.execution import Execution, execute
from serval_load.gpu_check.machine import Gpu, Machine
from serval_load.gpu_check.process import Outcome
from serval_load.gpu_check.record import Result
from serval_load.gpu_check.step import Needs, Step

MACHINE = Machine((Gpu("Stand-in GPU", 100.0, 0.0, 8.0),), "1", 64.0, {"torch": "2"})
COUNTED = "open(r'{work}/runs', 'a').write('x')"
ROW = {
    "what": "kernel",
    "operation": "embed",
    "tokens": 64,
    "table": "device",
    "path": "serval",
    "check": "ok",
}
TIMED = {**ROW, "us": 10.0, "us_p20": 9.0, "us_p80": 12.0, "floor_us": 5.0, "builtin_us": 30.0}


def stand_in(name: str, script: str, **fields: object) -> Step:
    given = {"expected_s": 1.0, "limit_s": 30.0, **fields}
    return Step(name, "stand-in for a step", ("-c", script), **given)  # type: ignore[arg-type]


def writing(*rows: dict[str, object]) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return f"open(r'{{rows}}', 'a').write({lines!r}); print('the last line')"


def run_all(
    steps: Sequence[Step], folder: Path, *, seconds: float = 60, **fields: object
) -> tuple[list[Result], str]:
    shown: list[str] = []
    given = {"machine": MACHINE, "code": "a", "model": "", "rehearse": False, **fields}
    execution = Execution(folder, show=shown.append, **given)  # type: ignore[arg-type]
    return list(execute(steps, execution, seconds=seconds)), "\n".join(shown)


def test_execute_shows_result_rows_and_last_line(tmp_path: Path) -> None:
    steps = [
        stand_in("a: check", "print('first'); print('200 steps')"),
        stand_in("a: times", writing(TIMED), measures=True),
    ]
    results, shown = run_all(steps, tmp_path)
    assert [(r.state, r.says) for r in results] == [("green", "200 steps"), ("green", "1 rows")]
    assert "embed T=64 device serval" in shown
    assert "10.0 us (9.0-12.0), 2.0 x floor, built-in / this 3.00" in shown


def test_execute_shows_the_verdict_on_each_part_of_a_check(tmp_path: Path) -> None:
    script = (
        "print('preparing'); print('green  tables: 62.8 GB'); print('red    codes: wrong at [3]'); exit(1)"
    )
    results, shown = run_all([stand_in("a: check", script)], tmp_path)
    assert results[0].verdicts == ("green  tables: 62.8 GB", "red    codes: wrong at [3]")
    assert "                       red    codes: wrong at [3]" in shown
    line = json.loads((tmp_path / "results.jsonl").read_text())
    assert line["verdicts"] == list(results[0].verdicts)


def test_execute_shows_no_figure_beside_a_red_check(tmp_path: Path) -> None:
    wrong = {**ROW, "path": "built-in", "check": "failed: 3 values differ"}
    results, shown = run_all([stand_in("a: times", writing(TIMED, wrong), measures=True)], tmp_path)
    assert results[0].state == "red"
    assert "failed: 3 values differ" in shown
    assert " us " not in shown


def test_execute_finds_a_bench_without_rows_red(tmp_path: Path) -> None:
    results, _ = run_all([stand_in("a: times", "print('done')", measures=True)], tmp_path)
    assert (results[0].state, results[0].says) == ("red", "measured nothing: done")


def test_execute_blocks_what_follows_a_red_check_and_goes_on(tmp_path: Path) -> None:
    steps = [
        stand_in("a: check", "raise SystemExit('wrong at [3]')"),
        stand_in("a: times", writing(TIMED), measures=True, after=("a: check",)),
        stand_in("b: check", ""),
    ]
    results, shown = run_all(steps, tmp_path)
    assert [r.state for r in results] == ["red", "blocked", "green"]
    assert results[0].says == "exit code 1: wrong at [3]"
    assert "not measured: 'a: check' is red" in shown


def test_execute_keeps_rows_of_a_step_stopped_at_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "work" / "a--times.jsonl"
    limits: list[float] = []

    def run_and_stop(*_: object, limit_s: float, **__: object) -> Outcome:
        limits.append(limit_s)
        with rows.open("a") as file:
            file.write(json.dumps(TIMED) + "\n")
        return Outcome(-2, 30.0, stopped=True)

    monkeypatch.setattr(process, "run", run_and_stop)
    slow = stand_in("a: times", "", measures=True)
    results, shown = run_all([slow], tmp_path)
    assert (results[0].state, limits) == ("stopped", [30.0])
    assert "10.0 us" in shown
    (line,) = (json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines())
    assert line["rows"] == [TIMED]
    # The next run goes on with the rows that it finds, unless they come from other code.
    run_all([slow], tmp_path)
    assert rows.read_text().count("\n") == 2
    run_all([slow], tmp_path, code="b")
    assert rows.read_text().count("\n") == 1


def test_execute_starts_nothing_when_the_time_is_over(tmp_path: Path) -> None:
    results, _ = run_all([stand_in("a: check", COUNTED)], tmp_path, seconds=0.5)
    assert results[0].state == "no time"
    assert not (tmp_path / "work" / "runs").exists()


def test_execute_repeats_no_green_step_of_the_same_code_and_machine(tmp_path: Path) -> None:
    step = stand_in("a: check", COUNTED)
    for _ in range(2):
        results, _ = run_all([step], tmp_path)
        assert results[0].state == "green"
    runs = tmp_path / "work" / "runs"
    assert results[0].before
    assert runs.read_text() == "x"
    run_all([step], tmp_path, code="b")
    run_all([step], tmp_path, code="b", machine=replace(MACHINE, driver="2"))
    run_all(
        [replace(step, environment={"PLACE": "host"})],
        tmp_path,
        code="b",
        machine=replace(MACHINE, driver="2"),
    )
    assert runs.read_text() == "xxxx"


def test_execute_repeats_a_red_step(tmp_path: Path) -> None:
    step = stand_in("a: check", f"{COUNTED}; raise SystemExit(1)")
    for _ in range(2):
        run_all([step], tmp_path)
    assert (tmp_path / "work" / "runs").read_text() == "xx"


def test_execute_makes_files_again_that_are_gone(tmp_path: Path) -> None:
    step = stand_in("a: files", "import os; os.mkdir(r'{work}/made')", writes="made")
    run_all([step], tmp_path)
    assert run_all([step], tmp_path)[0][0].before
    (tmp_path / "work" / "made").rmdir()
    assert not run_all([step], tmp_path)[0][0].before
    assert (tmp_path / "work" / "made").is_dir()


def test_execute_skips_what_the_machine_lacks(tmp_path: Path) -> None:
    steps = [
        stand_in("a: gpus", COUNTED, needs=Needs(gpus=2)),
        stand_in("a: memory", COUNTED, needs=Needs(gpu_memory_gib=130, host_memory_gib=80)),
        stand_in("a: capability", COUNTED, needs=Needs(capability=9.0)),
        stand_in("a: package", COUNTED, needs=Needs(packages=("json", "no_such_package"))),
        stand_in("a: program", COUNTED, needs=Needs(programs=("no-such-program",))),
        stand_in("a: model", COUNTED, needs=Needs(model=True)),
    ]
    says = [result.says for result in run_all(steps, tmp_path)[0]]
    assert says[0] == "needs 2 GPUs, this machine has 1"
    assert says[1] == "needs 130 GiB of GPU memory, there are 100; needs 80 GiB of host memory, there are 64"
    assert says[2] == "needs compute capability 9, this is 8"
    assert says[3].startswith("needs the package no_such_package in ")
    assert says[4] == "needs the program no-such-program"
    assert says[5] == "needs MODEL=DIR, a checkpoint of the model"
    assert not (tmp_path / "work" / "runs").exists()


def test_execute_rehearses_with_the_commands_for_a_cpu(tmp_path: Path) -> None:
    steps = [
        stand_in("a: check", "raise SystemExit(1)", needs=Needs(gpus=8), rehearsal=("-c", COUNTED)),
        stand_in("a: other", COUNTED),
    ]
    results, _ = run_all(steps, tmp_path, rehearse=True, machine=replace(MACHINE, gpus=()))
    assert [(r.state, r.says) for r in results] == [
        ("green", "no output"),
        ("skipped", "needs a GPU: no rehearsal on a CPU"),
    ]
