"""`serval plan --trace`: table of predictions for a workload file, and the flags of the best row."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from serval.workload_files import Workload, WorkloadFileError, read_workload
from serval.workload_files.lengths import DEFAULT_OUTPUT_TOKENS
from serval_sglang.cli.arguments import positive_int
from serval_sglang.cli.text import table
from serval_sglang.plan import Deployment
from serval_sglang.plan.choices import Row, candidates, choose, measured_candidate, predict_all
from serval_sglang.plan.prediction import PERCENTS
from serval_sglang.plan.shard_sizes import PlanError
from serval_sglang.plan.step_costs import gpu_of, read_costs

_GIB = 1 << 30
# Exit code for a line of input that cannot be read, as for other commands.
_BAD_INPUT = 2
_LEAST_SLOTS = 8


def add_trace_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `serval plan` for a workload file."""
    traced = parser.add_argument_group("prediction for a workload")
    add = traced.add_argument
    add(
        "--trace",
        type=Path,
        metavar="FILE",
        help="predict first tokens and throughput for this workload: conversations as SGLang replays them, "
        "the gateway's log, or CSV or JSON Lines with prompt, output, and if known cached and at (seconds)",
    )
    add(
        "--concurrency",
        type=positive_int,
        metavar="N",
        help="sessions at a time, one after the other; needed where the file says no arrivals",
    )
    add(
        "--rates",
        type=Path,
        metavar="FILE",
        help="measured seconds of steps, from `python -m serval_load fit`, for an engine as it was measured",
    )
    add(
        "--first-token",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="bound on nine of ten first tokens, for the choice (default 2)",
    )
    add(
        "--output-tokens",
        type=positive_int,
        default=DEFAULT_OUTPUT_TOKENS,
        metavar="TOKENS",
        help=f"answers of unknown length (default {DEFAULT_OUTPUT_TOKENS}, as SGLang's)",
    )


def run_trace(
    args: argparse.Namespace, deployment: Callable[[], Deployment], *, wrong_use: Callable[[str], NoReturn]
) -> int:
    """Print the predictions; return 0 if one can be chosen, 1 if none, 2 for a file that cannot be read."""
    try:
        workload = read_workload(args.trace, output_tokens=args.output_tokens)
    except WorkloadFileError as error:
        print(f"serval plan: error: {error}", file=sys.stderr)
        return _BAD_INPUT
    if args.concurrency is None and not workload.timed:
        wrong_use(
            f"{args.trace} says nothing about arrivals: give the number of sessions with --concurrency N"
        )
    if args.rates is not None:
        source = f"measured, {args.rates}"
        tried = iter([measured_candidate(read_costs(args.rates), engines=args.gpus)])
    else:
        given = deployment()
        if given.config.sparse_attention is not None:
            wrong_use("--trace estimates attention to all tokens, and this model's is sparse: give --rates")
        try:
            gpu = gpu_of(given.gpu_memory_bytes / _GIB)
        except PlanError as error:
            wrong_use(str(error))
        source = f"estimated for {gpu.name}, {given.weight_dtype}; not measured on Serval (--rates)"
        chunks = [args.chunked_prefill_size] if args.chunked_prefill_size else None
        tried = candidates(given, tps=[args.tp] if args.tp else None, chunks=chunks)
    rows = predict_all(workload, tried, agents=args.concurrency)
    chosen = choose(rows, first_token_s=args.first_token)
    if args.json:
        print(json.dumps(trace_json(workload, rows, chosen, source=source)))
    else:
        lines = trace_text(workload, rows, chosen, source=source, first_token_s=args.first_token)
        print("\n".join(lines))
    return 0 if chosen else 1


def trace_json(workload: Workload, rows: Sequence[Row], chosen: Row | None, *, source: str) -> dict[str, Any]:
    """Return predictions and choice; lists of seconds hold p50, p90 and p99."""
    return {
        "costs": source,
        "notes": workload.notes,
        "chosen": None if chosen is None else rows.index(chosen),
        "rows": [_row_json(row) for row in rows],
    }


def _row_json(row: Row) -> dict[str, Any]:
    one = row.candidate
    return {
        "tp": one.tp,
        "engines": one.engines,
        "chunked_prefill_size": one.sizes.chunk_tokens,
        "kv_cache_tokens": one.sizes.kv_tokens,
        **{name: _jsonable(value) for name, value in asdict(row.prediction).items()},
        "max_running_requests": _slots(row),
    }


def _jsonable(value: Any) -> Any:
    """Replace NaN, which JSON does not know."""
    if isinstance(value, tuple):
        return [_jsonable(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _slots(row: Row) -> int:
    """Return a limit on running requests that leaves a quarter more than the workload needed."""
    return min(max(math.ceil(row.prediction.slots * 1.25), _LEAST_SLOTS), row.candidate.sizes.max_running)


def trace_text(
    workload: Workload, rows: Sequence[Row], chosen: Row | None, *, source: str, first_token_s: float
) -> Iterator[str]:
    """Yield lines for a terminal."""
    calls = list(workload.calls)
    prompts, outputs = sum(call.prompt for call in calls), sum(call.output for call in calls)
    yield (
        f"{len(calls):,} requests, {prompts / len(calls):,.0f} tokens in and {outputs / len(calls):,.0f} out "
        "in the mean"
    )
    yield from (f"assumed: {note}" for note in workload.notes)
    yield f"seconds of steps: {source}\n"
    if not rows:
        yield "no engine fits; `serval plan` without --trace says what is short"
        return
    yield table([_HEADER, *(_cells(row) for row in rows)], left=frozenset())
    if chosen is None:
        yield f"\nno row serves all requests with nine of ten first tokens within {first_token_s:g} s"
        return
    one = chosen.candidate
    tp = "" if one.tp is None else f"--tp {one.tp} "
    flags = f"--chunked-prefill-size {one.sizes.chunk_tokens} --max-running-requests {_slots(chosen)}"
    yield f"\ntake: {tp}{flags}"


_HEADER = (
    "tp", "engines", "chunk", "KV tokens", "running", "failed",
    f"first token {' / '.join(f'p{percent}' for percent in PERCENTS)}, s",
    "tokens/s a user", "output tokens/s", "all tokens/s", "cached", "busy",
)  # fmt: skip


def _cells(row: Row) -> tuple[str, ...]:
    one, found = row.candidate, row.prediction
    return (
        "-" if one.tp is None else str(one.tp),
        str(one.engines),
        f"{one.sizes.chunk_tokens:,}",
        f"{one.sizes.kv_tokens:,}",
        f"{found.slots:,}",
        f"{found.failed:,}",
        " / ".join(f"{value:.2f}" for value in found.first_s),
        f"{found.user_tokens_per_s:,.0f}",
        f"{found.output_tokens_per_s:,.0f}",
        f"{found.tokens_per_s:,.0f}",
        f"{found.cached_share:.0%}",
        f"{found.busy:.0%}",
    )
