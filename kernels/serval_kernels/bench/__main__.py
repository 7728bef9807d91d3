"""`python -m serval_kernels.bench`: every operation, path and table placement in one run.

Each row is printed as soon as it is measured, and appended to the file of `--json` as one object a line. The
first line has the conditions, `{"what": "conditions", ...}`, and rows are

    {"what": "kernel", "operation": "embed", "tokens": 64, "table": "int8", "path": "serval", "check": "ok",
     "us": 14.2, "us_p20": 14.0, "us_p80": 14.9, "calls": 2210, "floor_us": 5.9, "builtin_us": 31.0, ...}

Times are microseconds; `builtin_us` is null where nothing was measured to compare with. A path whose result
is wrong, or that raises, has a `check` of "failed: ..." and no times; the others are measured all the same,
and the exit code is 1. After `--resume` the last of several rows for the same path counts.
"""

import argparse
import dataclasses
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

import torch

from serval_kernels.bench import cases, machine, report
from serval_kernels.bench.cases import Case, Path, TableKind, disagreement
from serval_kernels.bench.record import OtherRunError, Record
from serval_kernels.bench.report import OK, Row
from serval_kernels.bench.roofline import Machine, Work
from serval_kernels.bench.sizes import LITE, Sizes
from serval_kernels.bench.timing import time_call
from serval_kernels.launch import triton_version

TABLES: dict[str, tuple[TableKind, ...]] = {
    "cpu": ("device", "int8", "fp8"),
    "cuda": ("device", "int8", "fp8", "host", "host-int8"),
}
EXAMPLE = """\
examples:
  python -m serval_kernels.bench --device cuda                      the full tables, 63 GB each
  python -m serval_kernels.bench --device cuda --minutes 4 --json gpu.jsonl --resume    a part, then the rest
  python -m serval_kernels.bench --device cpu --table-rows 1000000  what fits on a laptop

paths: `serval` is the public operation (Triton on a GPU, torch on a CPU), `built-in` SGLang 0.5.23's
algorithm written in torch, `reference` the torch reference (left out on a CPU, where `serval` is it).
check: the result of each path is compared with the reference first; a wrong one is not timed.
floor: the least bytes and operations, at the rates this run measures on this machine.
duration: some 60 rows of --seconds each, with their checks and the filling of tables; on a CPU with
--table-rows 20000 a minute of one core. --minutes bounds it, and --tokens and --tables choose fewer rows.
times: on a GPU each path is a CUDA graph and caches are cold; on a CPU, processor time of one thread.
"""
_LONGEST_REASON = 300


@torch.no_grad()
def main() -> int:
    """Measure and print; return 1 if a path was wrong."""
    begin = time.monotonic()
    args = _arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench: error: --device cuda: torch finds no GPU here. Use --device cpu.", file=sys.stderr)
        return 1
    if device.type == "cpu":
        torch.set_num_threads(1)
    dtype: torch.dtype = getattr(torch, args.dtype)
    sizes = _sizes(args.table_rows)
    try:
        record = Record(args.json, _conditions(device, sizes, args.dtype), resume=args.resume)
    except OtherRunError as error:
        print(f"bench: error: --resume: {error}", file=sys.stderr)
        return 2
    rates = machine.measure(device, dtype=dtype)
    record.note({"what": "rates", **dataclasses.asdict(rates)})
    print(_heading(rates, sizes, args.dtype), report.HEAD, sep="\n", flush=True)
    deadline = None if args.minutes is None else begin + 60 * args.minutes
    is_complete = _measure(args, record, rates, sizes, device, dtype, deadline)
    if not is_complete:
        print(f"bench: {args.minutes:g} minutes are over; --resume measures the rest.", file=sys.stderr)
    if args.svg:
        title = "The input embedding, from tokens to hidden states"
        args.svg.write_text(report.picture(record.rows, title=title, subtitle=rates.name), encoding="utf-8")
    return int(any(row.check != OK for row in record.rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serval_kernels.bench",
        description="Time the kernels against their floor and against SGLang's built-in algorithms.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--tokens", type=int, nargs="+", default=[1, 16, 64, 512, 8192], metavar="T")
    add("--tables", nargs="+", choices=TABLES["cuda"], help="default: all that the device can read")
    add(
        "--table-rows",
        type=int,
        metavar="N",
        help=f"rows of all tables together (default {LITE.rows:,}, as in Lite)",
    )
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add("--seconds", type=float, default=0.5, metavar="S", help="wall time spent on each path (default 0.5)")
    add("--minutes", type=float, metavar="M", help="begin no row after so much wall time in all")
    add("--json", type=FilePath, metavar="FILE", help="append each row to this file as it is measured")
    add("--resume", action="store_true", help="leave out rows that the file of --json already has")
    add("--svg", type=FilePath, metavar="FILE", help="write the picture of the embedding")
    args = parser.parse_args()
    args.tables = args.tables or TABLES[args.device]
    if unreadable := set(args.tables) - set(TABLES[args.device]):
        parser.error(f"--tables {' '.join(sorted(unreadable))}: only a GPU tells host memory from its own.")
    if args.resume and args.json is None:
        parser.error("--resume reads the file of --json: give both.")
    return args


def _sizes(table_rows: int | None) -> Sizes:
    """Return the sizes of Lite with about `table_rows` rows in all tables and at most as many words."""
    if table_rows is None:
        return LITE
    base = max(table_rows // LITE.tables - LITE.tables, 1)
    return dataclasses.replace(LITE, ngram_base=base, vocab=min(table_rows, LITE.vocab))


def _conditions(device: torch.device, sizes: Sizes, dtype: str) -> dict[str, Any]:
    """Return everything that rows of one file have in common."""
    return {
        "what": "conditions",
        "machine": machine.name(device),
        "torch": torch.__version__,
        "triton": triton_version(),
        "python": platform.python_version(),
        "dtype": dtype,
        "table_rows": sizes.rows,
    }


def _heading(rates: Machine, sizes: Sizes, dtype: str) -> str:
    bus = "" if rates.host_bytes_per_s is None else f", host bus {rates.host_bytes_per_s / 1e9:.1f} GB/s"
    share = sizes.rows / LITE.rows
    shrunk = (
        "" if share == 1 else f" ({share:.2%} of LongCat-Flash-Lite's: times depend on it through caches)"
    )
    return (
        f"Machine: {rates.name}; copy {rates.device_bytes_per_s / 1e9:.1f} GB/s{bus}, "
        f"{dtype} product {rates.flops_per_s / 1e12:.3g} TFLOP/s\n"
        f"torch {torch.__version__}, Triton {triton_version()}, Python {platform.python_version()}\n"
        f"Tables: {sizes.rows:,} rows of {sizes.width} values{shrunk}\n"
    )


def _measure(
    args: argparse.Namespace,
    record: Record,
    rates: Machine,
    sizes: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    deadline: float | None,
) -> bool:
    """Measure each row that `record` lacks; return False if the deadline cut this short."""
    for case in _all_cases(args, record, sizes, device, dtype):
        for path in case.paths:
            if record.has(case.operation, case.tokens, case.table, path.name):
                continue
            if deadline is not None and time.monotonic() >= deadline:
                return False
            record.add(_row(case, path, record, rates, device, seconds=args.seconds))
        del case  # it keeps the table alive, and the next one may not fit beside it
    return True


def _all_cases(
    args: argparse.Namespace, record: Record, sizes: Sizes, device: torch.device, dtype: torch.dtype
) -> Iterator[Case]:
    """Yield the cases that need no table, then those of one table after another."""
    for tokens in args.tokens:
        yield from cases.other_cases(sizes, tokens, device, dtype=dtype)
    for kind in args.tables:
        if all(
            record.has(operation, tokens, kind, path)
            for operation, paths in cases.table_paths(kind, device).items()
            for path in paths
            for tokens in args.tokens
        ):
            continue
        print(f"filling the {kind} table", file=sys.stderr, flush=True)
        try:
            weights = cases.make_weights(sizes, kind, device, dtype=dtype)
        except Exception as error:  # noqa: BLE001  # as in _row: the other tables may fit
            record.add(Row("fill", 0, kind, "-", Work(), 0.0, check=f"failed: {_reason(error)}"))
            continue
        for tokens in args.tokens:
            yield from cases.table_cases(sizes, kind, weights, tokens)
        del weights
        machine.give_back_memory(device)


def _row(
    case: Case, path: Path, record: Record, rates: Machine, device: torch.device, *, seconds: float
) -> Row:
    """Check a path, and time it if it is right."""
    row = Row(
        operation=case.operation,
        tokens=case.tokens,
        table=case.table,
        path=path.name,
        work=path.work,
        floor_s=rates.floor_s(case.floor),
    )
    try:
        problem = disagreement(case, path)
        if problem is None:
            timing = time_call(path.call, device, next_input=case.next_input, seconds=seconds)
            builtin_s = record.builtin_s(case.operation, case.tokens)
            if path.name == "built-in":
                builtin_s = timing.median_s
            return dataclasses.replace(row, timing=timing, builtin_s=builtin_s)
    except Exception as error:  # noqa: BLE001  # one path that raises must not cost the rows of the others
        problem = _reason(error)
    return dataclasses.replace(row, check=f"failed: {problem}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:_LONGEST_REASON]


if __name__ == "__main__":
    sys.exit(main())
