"""`python -m serval_kernels.bench`: every operation, path and table placement in one run."""

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path as FilePath

import torch
from torch import Tensor

from serval_kernels.bench import cases, machine, report
from serval_kernels.bench.cases import Case, TableKind
from serval_kernels.bench.report import Row
from serval_kernels.bench.roofline import Machine
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
  python -m serval_kernels.bench --device cpu --table-rows 1000000  what fits on a laptop

paths: `serval` is the public operation (Triton on a GPU, torch on a CPU), `built-in` SGLang 0.5.23's
algorithm written in torch, `reference` the torch reference (left out on a CPU, where `serval` is it).
floor: the least bytes and operations, at the rates this run measures on this machine.
times: on a GPU each path is a CUDA graph and caches are cold; on a CPU, processor time of one thread.
"""


def main() -> int:
    """Measure, print the table, and write the requested files."""
    args = _arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench: error: --device cuda: torch finds no GPU here. Use --device cpu.", file=sys.stderr)
        return 1
    torch.set_grad_enabled(False)
    if device.type == "cpu":
        torch.set_num_threads(1)
    dtype: torch.dtype = getattr(torch, args.dtype)
    sizes = _sizes(args.table_rows)
    rates = machine.measure(device, dtype=dtype)
    print(_heading(rates, sizes, args.dtype), flush=True)
    rows: list[Row] = []
    for case in _all_cases(args, sizes, device, dtype):
        print(f"{case.operation} T={case.tokens} table={case.table}", file=sys.stderr, flush=True)
        _require_agreement(case)
        rows += _measured(case, rates, device, least_s=args.least_seconds)
        del case  # it keeps the table alive, and the next one may not fit beside it
    rows = _with_builtin(rows)
    print(report.markdown(rows))
    _write(args, rows, rates)
    return 0


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
    add("--least-seconds", type=float, default=0.5, metavar="S", help="spent on each path (default 0.5)")
    add("--json", type=FilePath, metavar="FILE", help="write the measurements")
    add("--svg", type=FilePath, metavar="FILE", help="write the picture of the embedding")
    args = parser.parse_args()
    args.tables = args.tables or TABLES[args.device]
    if unreadable := set(args.tables) - set(TABLES[args.device]):
        parser.error(f"--tables {' '.join(sorted(unreadable))}: only a GPU tells host memory from its own.")
    return args


def _sizes(table_rows: int | None) -> Sizes:
    """Return the sizes of Lite with about `table_rows` rows in all tables and at most as many words."""
    if table_rows is None:
        return LITE
    base = max(table_rows // LITE.tables - LITE.tables, 1)
    return dataclasses.replace(LITE, ngram_base=base, vocab=min(table_rows, LITE.vocab))


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


def _all_cases(
    args: argparse.Namespace, sizes: Sizes, device: torch.device, dtype: torch.dtype
) -> Iterator[Case]:
    for kind in args.tables:
        print(f"filling the {kind} table", file=sys.stderr, flush=True)
        weights = cases.make_weights(sizes, kind, device, dtype=dtype)
        for tokens in args.tokens:
            yield from cases.table_cases(sizes, kind, weights, tokens)
        del weights
        if device.type == "cuda":
            torch.cuda.empty_cache()
    for tokens in args.tokens:
        yield from cases.other_cases(sizes, tokens, device, dtype=dtype)


def _require_agreement(case: Case) -> None:
    """Raise `AssertionError` if the paths of a case disagree: no time is reported for a wrong result."""
    results = []
    for path in case.paths:
        torch.manual_seed(7)
        case.next_input()
        results.append(_comparable(path.call()).float().clone())
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0.03, atol=0.03)


def _comparable(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return a tensor to compare: for a routing, the weight of each token's identity experts."""
    if isinstance(result, Tensor):
        return result
    return result[2] if result[2].dim() == 1 else result[2].sum(dim=1) * cases.SCALE


def _measured(case: Case, rates: Machine, device: torch.device, *, least_s: float) -> Iterator[Row]:
    for path in case.paths:
        timing = time_call(path.call, device, next_input=case.next_input, least_s=least_s)
        yield Row(
            operation=case.operation,
            tokens=case.tokens,
            table=case.table,
            path=path.name,
            work=path.work,
            timing=timing,
            floor_s=rates.floor_s(case.floor),
            builtin_s=None,
        )


def _with_builtin(rows: list[Row]) -> list[Row]:
    medians = {(row.operation, row.tokens): row.timing.median_s for row in rows if row.path == "built-in"}
    return [dataclasses.replace(row, builtin_s=medians.get((row.operation, row.tokens))) for row in rows]


def _write(args: argparse.Namespace, rows: list[Row], rates: Machine) -> None:
    if args.json:
        content = {"machine": dataclasses.asdict(rates), "rows": [dataclasses.asdict(row) for row in rows]}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if args.svg:
        title = "The input embedding, from tokens to hidden states"
        args.svg.write_text(report.picture(rows, title=title, subtitle=rates.name), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
