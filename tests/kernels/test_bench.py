"""The bench: byte counts checked by hand, agreement of paths, a run from the command line."""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from xml.etree import ElementTree

import pytest
import torch

import serval_kernels.bench.__main__ as bench
from serval_kernels.bench import builtin, cases, machine, roofline, timing
from serval_kernels.bench.cases import Case, Result
from serval_kernels.bench.record import Record
from serval_kernels.bench.roofline import Machine, TableFormat, Work
from serval_kernels.bench.sizes import LITE, Sizes
from serval_kernels.bench.timing import Timing, time_call

CPU = torch.device("cpu")

SMALL = Sizes(
    vocab=307,
    ngram_base=921,
    order=4,
    splits=4,
    hidden=96,
    routed_experts=16,
    identity_experts=8,
    top_k=5,
)
BF16_ON_DEVICE = TableFormat(2, 0, on_host=False)
INT8_ON_HOST = TableFormat(1, 4, on_host=True)


def test_sizes_of_lite_are_the_published_ones() -> None:
    assert (LITE.tables, LITE.width, LITE.experts) == (12, 256, 384)
    assert LITE.rows * LITE.width == pytest.approx(31.4e9, rel=1e-3)  # parameters in n-gram tables


def test_gather_work_counts_six_kibibytes_per_token() -> None:
    rows = roofline.gather_work(1, LITE, BF16_ON_DEVICE)
    assert rows == Work(device_bytes=6144 + 6144 + 12 * 8)  # rows in, rows out, ids in
    on_host = roofline.gather_work(1, LITE, INT8_ON_HOST)
    assert on_host == Work(device_bytes=6144 + 12 * 8 + 12 * 4, host_bytes=12 * 256)


def test_work_of_every_path_is_at_least_the_floor() -> None:
    for tokens in (1, 64, 8192):
        floor = roofline.embed_work(tokens, LITE, BF16_ON_DEVICE)
        fused = roofline.fused_embed_work(tokens, LITE, BF16_ON_DEVICE)
        builtin = roofline.builtin_embed_work(tokens, LITE, BF16_ON_DEVICE)
        assert floor.device_bytes < fused.device_bytes < builtin.device_bytes
        assert floor.flops == fused.flops == builtin.flops == 2 * tokens * 3072**2


def test_machine_floor_is_the_longest_of_three_times() -> None:
    machine = Machine("", device_bytes_per_s=100.0, host_bytes_per_s=10.0, flops_per_s=1000.0)
    assert machine.floor_s(Work(device_bytes=100, host_bytes=5, flops=500)) == 1.0
    assert machine.floor_s(Work(device_bytes=100, host_bytes=50, flops=500)) == 5.0
    assert machine.floor_s(Work(device_bytes=100, host_bytes=5, flops=9000)) == 9.0


@pytest.mark.parametrize(
    ("tokens", "dtype"),
    [(1, torch.float32), (5, torch.float32), (600, torch.float32), (5, torch.bfloat16)],
)
def test_cases_agree_across_paths(tokens: int, dtype: torch.dtype) -> None:
    """Paths of a case must compute the same, in decode (up to 512 tokens) and in prefill."""
    device = torch.device("cpu")
    weights = cases.make_weights(SMALL, "device", device, dtype=dtype)
    checked = []
    for case in [
        *cases.table_cases(SMALL, "device", weights, tokens),
        *cases.other_cases(SMALL, tokens, device, dtype=dtype),
    ]:
        for path in case.paths:
            assert cases.disagreement(case, path) is None
            checked.append((case.operation, path.name))
    assert len(checked) == 8  # embed, route and combine have a built-in path too


def spoiled(case: Case, change: Callable[[Result], Result]) -> str | None:
    path = dataclasses.replace(case.paths[-1], call=lambda: change(case.paths[-1].call()))
    return cases.disagreement(case, path)


def one_more(result: Result) -> Result:
    """Change one value by the least that a wrong kernel would."""
    assert isinstance(result, torch.Tensor)
    return result.index_put((torch.tensor(3), torch.tensor(1)), result[3, 1] + 1)


@pytest.mark.parametrize("kind", ["device", "int8", "fp8"])
def test_disagreement_names_first_wrong_value(kind: cases.TableKind) -> None:
    device = torch.device("cpu")
    weights = cases.make_weights(SMALL, kind, device, dtype=torch.bfloat16)
    found = [
        spoiled(case, one_more)
        for case in [
            *cases.table_cases(SMALL, kind, weights, 5),
            *(c for c in cases.other_cases(SMALL, 5, device, dtype=torch.bfloat16) if c.operation != "route"),
        ]
    ]
    assert len(found) == 4
    for text in found:
        assert text is not None
        assert text.startswith("1 of ")
        assert "the first at [3, 1]" in text


def test_disagreement_finds_wrong_mean_weight() -> None:
    """The mean over 12 tables and the word divides by 13; by 12, values are 8 % too large."""
    device = torch.device("cpu")
    weights = cases.make_weights(SMALL, "device", device, dtype=torch.bfloat16)
    embed = next(cases.table_cases(SMALL, "device", weights, 5))
    assert spoiled(embed, lambda result: result * (13 / 12)) is not None  # type: ignore[operator]


def test_disagreement_finds_stale_ring() -> None:
    (case, *_) = cases.other_cases(SMALL, 5, torch.device("cpu"), dtype=torch.float32)
    (ring,) = case.state

    def lose(result: Result) -> Result:
        ring[0, 0] += 1
        return result

    found = spoiled(case, lose)
    assert found is not None
    assert found.startswith("state: 1 of 20 values differ")


def test_make_weights_leaves_scales_of_host_table_on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the engine does: a row is then a single read over the bus."""
    device = torch.device("cpu", 0)  # stands for a GPU, and is not equal to torch.device("cpu")
    placed = {}

    def place(block: torch.Tensor, rows: int, place: torch.device, *, pinned: bool) -> torch.Tensor:
        placed[block.dtype, block.dim()] = (place, pinned)
        return block

    monkeypatch.setattr(cases, "_repeated", place)
    cases.make_weights(SMALL, "host-int8", device, dtype=torch.bfloat16)
    assert placed[torch.int8, 2] == (CPU, True)
    assert placed[torch.float32, 1] == (device, False)


def test_time_call_is_bounded_by_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay of 16 µs between two 0.25 ms that are not timed must not take 31,250 rounds."""
    now = [0.0]

    def round_of(seconds: float) -> float:
        now[0] += 250e-6 + seconds
        return seconds

    def time_rounds(seconds: float) -> Timing:
        monkeypatch.setattr(timing, "_processor_timer", lambda _: lambda: round_of(seconds))
        nothing = lambda: None  # noqa: E731
        return time_call(nothing, CPU, next_input=nothing, seconds=0.5, clock=lambda: now[0])

    assert time_rounds(16e-6).calls == pytest.approx(0.5 / 266e-6, abs=2)
    assert time_rounds(0.1).calls == 30
    assert time_rounds(2.0).calls == 5


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", "--device", "cpu", "--seconds", "0", *arguments])
    monkeypatch.setattr(bench, "LITE", SMALL)
    rates = Machine("test", device_bytes_per_s=1e10, host_bytes_per_s=None, flops_per_s=1e10)
    monkeypatch.setattr(machine, "measure", lambda device, dtype: rates)
    return bench.main()


def written(file: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if row["what"] == "kernel"]


def test_bench_prints_no_speed_beside_failed_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    correct = builtin.combine
    monkeypatch.setattr(builtin, "combine", lambda *a, **options: correct(*a, **options) * 2)

    def raises(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("out of memory\nlong explanation")

    monkeypatch.setattr(builtin, "route", raises)
    file = tmp_path / "rows.jsonl"
    assert run_main(monkeypatch, "--tokens", "4", "--tables", "int8", f"--json={file}") == 1
    rows = {(row["operation"], row["path"]): row for row in written(file)}
    wrong, raised = rows["combine", "built-in"], rows["route", "built-in"]
    assert re.match(r"failed: \d+ of 384 values differ, the first at ", wrong["check"])
    assert raised["check"] == "failed: RuntimeError: out of memory"
    assert not [key for row in (wrong, raised) for key in row if key in ("us", "us_p20", "us_p80")]
    assert f"| combine | 4 | - | built-in | {wrong['check']} | | | |" in capsys.readouterr().out
    # The others are measured, with nothing to compare them with.
    right = [row for row in rows.values() if row["check"] == "ok"]
    assert len(right) == 5
    assert all(row["us"] > 0 for row in right)
    assert rows["combine", "serval"]["builtin_us"] is None


def test_bench_goes_on_after_table_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make = cases.make_weights

    def make_some(sizes: Sizes, kind: cases.TableKind, *rest: Any, **options: Any) -> cases.Weights:
        if kind == "int8":
            raise MemoryError("63 GB")
        return make(sizes, kind, *rest, **options)

    monkeypatch.setattr(cases, "make_weights", make_some)
    file = tmp_path / "rows.jsonl"
    assert run_main(monkeypatch, "--tokens", "4", "--tables", "int8", "fp8", f"--json={file}") == 1
    failed = [row for row in written(file) if row["check"] != "ok"]
    assert [(row["operation"], row["table"], row["check"]) for row in failed] == [
        ("fill", "int8", "failed: MemoryError: 63 GB")
    ]
    assert [row["operation"] for row in written(file) if row["table"] == "fp8"] == ["embed", "gather"]


def test_bench_leaves_what_it_measured_and_resumes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    options = ("--tokens", "4", "8", "--tables", "device", f"--json={file}")
    measure, seen = bench.time_call, []

    def killed_after(rows: int) -> None:
        def time_some(*given: Any, **options: Any) -> Timing:
            if len(written(file)) == rows:
                raise KeyboardInterrupt
            seen.append(given)
            return measure(*given, **options)

        monkeypatch.setattr(bench, "time_call", time_some)

    killed_after(12)
    with pytest.raises(KeyboardInterrupt):
        run_main(monkeypatch, *options)
    before = written(file)
    assert len(before) == 12
    with file.open("a") as unfinished:
        unfinished.write('{"what": "kern')
    seen.clear()
    killed_after(-1)
    assert run_main(monkeypatch, *options, "--resume") == 0
    assert len(seen) == 4
    assert written(file)[:12] == before
    keys = [(row["operation"], row["tokens"], row["table"], row["path"]) for row in written(file)]
    assert len(set(keys)) == len(keys) == 16
    # The last rows have the time of the built-in path from the first run.
    embed = next(row for row in written(file) if row["operation"] == "embed" and row["path"] == "built-in")
    assert {row["builtin_us"] for row in written(file)[10:12] if row["operation"] == "embed"} <= {embed["us"]}
    # Nothing is left: no table is filled again.
    monkeypatch.setattr(cases, "make_weights", None)
    assert run_main(monkeypatch, *options, "--resume") == 0


def test_bench_refuses_to_resume_under_other_conditions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    assert run_main(monkeypatch, "--tokens", "1", "--tables", "int8", f"--json={file}") == 0
    options = ("--tokens", "1", "--tables", "int8", f"--json={file}", "--dtype", "float32", "--resume")
    assert run_main(monkeypatch, *options) == 2
    assert "other conditions" in capsys.readouterr().err


def test_bench_begins_no_row_after_its_minutes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    options = ("--tokens", "1", "--tables", "int8", f"--json={file}")
    assert run_main(monkeypatch, *options, "--minutes", "0") == 0
    assert written(file) == []
    assert "0 minutes are over; --resume measures the rest" in capsys.readouterr().err
    assert run_main(monkeypatch, *options, "--minutes", "5", "--resume") == 0
    assert len(written(file)) == 7


def test_bench_gives_memory_back_between_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps freed memory, and on the host the next table may not fit beside it."""

    class Table:
        """Stands for weights."""

    events: list[str] = []
    alive: list[weakref.ref[Table]] = []

    def make(sizes: Sizes, kind: str, *_: object, **__: object) -> Table:
        events.append(kind)
        table = Table()
        alive.append(weakref.ref(table))
        return table

    def give_back(name: str) -> None:
        assert alive[-1]() is None, "the table is still there"
        events.append(name)

    def one_case(sizes: Sizes, kind: str, weights: object, tokens: int) -> Iterator[Any]:
        yield SimpleNamespace(operation="embed", tokens=tokens, table=kind, paths=[], weights=weights)

    monkeypatch.setattr(cases, "make_weights", make)
    monkeypatch.setattr(cases, "table_cases", one_case)
    monkeypatch.setattr(cases, "other_cases", lambda *_, **__: iter(()))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: give_back("device memory"))
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: give_back("pinned memory"))
    args = argparse.Namespace(tokens=[1], tables=["host", "host-int8"], seconds=0.0)
    rates = Machine("test", device_bytes_per_s=1.0, host_bytes_per_s=1.0, flops_per_s=1.0)
    record = Record(None, {}, resume=False)
    assert bench._measure(args, record, rates, SMALL, torch.device("cuda"), torch.bfloat16, None)
    given_back = ["device memory", "pinned memory"]
    assert events == ["host", *given_back, "host-int8", *given_back]


def test_bench_runs_from_command_line(tmp_path: Path) -> None:
    # float32, because a CPU without bfloat16 instructions takes half a minute for products at full width.
    command = [
        sys.executable, "-m", "serval_kernels.bench", "--device", "cpu", "--dtype", "float32",
        "--tokens", "1", "4", "--table-rows", "5000", "--seconds", "0", "--tables", "device", "int8",
        "--svg", str(tmp_path / "embedding.svg"), "--json", str(tmp_path / "rows.jsonl"),
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "% of LongCat-Flash-Lite's" in finished.stdout  # reports that tables are shrunk
    assert "| embed | 4 | int8 | serval |" in finished.stdout
    assert "| embed | 4 | device | built-in |" in finished.stdout
    rows = written(tmp_path / "rows.jsonl")
    assert len(rows) == len(
        [line for line in finished.stdout.splitlines() if " | serval | " in line or " | built-in | " in line]
    )
    assert all(row["check"] == "ok" and row["us"] > 0 for row in rows)
    bars = [
        element
        for element in ElementTree.parse(tmp_path / "embedding.svg").iter()  # noqa: S314  # our own file
        if element.tag.endswith("rect") and len(element)
    ]
    assert len(bars) == 2 * 2 * 3  # panels, sizes, paths
