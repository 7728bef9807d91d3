"""Say whether a model fits the given GPUs: bytes of each part on each GPU, and room for requests.

Arithmetic only: nothing is loaded and no GPU is needed. Exit code 0: it fits, and the KV cache has room for
one request of the whole context at least. 1: it does not fit. Sizes follow how Serval's adapter splits the
model over tensor-parallel ranks. What SGLang needs besides is an assumption, shown with the result and set by
the flags under "assumptions".

With --trace, predict first tokens and throughput for a workload file instead, for every tensor-parallel size
and prefill chunk that fits, and name the best. Exit code 0: one can be chosen. 1: none. 2: the file is wrong.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from serval_sglang.checkpoint.files import CONFIG_FILE, CheckpointError
from serval_sglang.checkpoint.quantization import Quantization, read_quantization
from serval_sglang.cli.arguments import positive_int
from serval_sglang.cli.plan_trace import add_trace_arguments, run_trace
from serval_sglang.cli.run import run_command
from serval_sglang.cli.text import table
from serval_sglang.config import LongcatConfig
from serval_sglang.options import add_mtp_steps
from serval_sglang.plan import Deployment, Plan, PlanError, alternatives, plan_deployment
from serval_sglang.plan.fit import LARGEST_TP_OF_MACHINES, LARGEST_TP_TRIED, KvDtype
from serval_sglang.plan.reserve import BatchLimits, default_batch_limits
from serval_sglang.plan.shard_sizes import TablePlacement, WeightDtype
from serval_sglang.siblings import ARCHITECTURES, BY_NAME

_EXAMPLES = """\
examples:
  serval plan --gpu-memory-gib 140.4 --gpus 2                    bf16 on two H200
  serval plan --gpu-memory-gib 140.4 --dtype fp8                 FP8 on one H200
  serval plan --gpu-memory-gib 79.6 --dtype fp8 --tables host    FP8 on one H100, n-gram tables in host memory
  serval plan --gpu-memory-gib 140.4 --gpus 8 --model flash-chat --dtype fp8
                                                                 LongCat-Flash-Chat, FP8 on eight H200
  serval plan --gpu-memory-gib 140.4 --gpus 8 --dtype fp8 --trace sessions.json --concurrency 64
                                                                 first tokens and throughput for a workload
"""

_GIB = 1 << 30
_ALTERNATIVES_SHOWN = 6
# No machine has more; a figure above is one in MiB.
_LARGEST_GPU_GIB = 1024
_LARGEST_HOST_GIB = 64 * 1024
_PLACES: Mapping[TablePlacement, str] = {
    "device": "on the GPU",
    "host": "in host memory",
    "8bit": "in 8 bit on the GPU",
}
# Flag by field of Deployment, as named in alternatives.
_FLAGS = {
    "weight_dtype": "--dtype",
    "kv_dtype": "--kv-dtype",
    "tables": "--tables",
    "gpus": "--gpus",
    "tp": "--tp",
    "limits": "--chunked-prefill-size",
    "context_tokens": "--context",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; return the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    return run_command("serval plan", lambda: _run(args, wrong_use=parser.error))


def _run(args: argparse.Namespace, *, wrong_use: Callable[[str], NoReturn]) -> int:
    if args.gpu_memory_gib is None and not (args.trace and args.rates):
        wrong_use("the following arguments are required: --gpu-memory-gib")
    if args.trace is not None:
        return run_trace(args, lambda: _deployment(args), wrong_use=wrong_use)
    deployment = _deployment(args)
    try:
        plan = plan_deployment(deployment)
    except PlanError as error:
        wrong_use(str(error))
    changes = [] if plan.fits else alternatives(plan)
    print(json.dumps(as_json(plan, changes)) if args.json else "\n".join(as_text(plan, changes)))
    return 0 if plan.fits else 1


def as_json(plan: Plan, changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the plan with all sizes in bytes."""
    given = plan.deployment
    return {
        "fits": plan.fits,
        "refused_on_gpu": _refusal(plan),
        "shortcomings": plan.shortcomings,
        "would_fit_with": [_as_flags(change) for change in changes],
        "engines": given.engines,
        "tp": given.tp,
        "ep": given.ep,
        "gpu": {
            "memory_bytes": given.gpu_memory_bytes,
            "weights_bytes": plan.weights_bytes,
            "weights_total_bytes": sum(plan.weights_bytes.values()),
            "runtime_bytes": given.runtime_bytes,
            "reserve_bytes": plan.reserve_bytes,
            "kv_cache_bytes": max(0, plan.kv_bytes),
        },
        "host_bytes": plan.host_bytes,
        "kv_cache": {"bytes_per_token": plan.kv_bytes_per_token, "tokens": plan.kv_tokens},
        "concurrent_requests": {str(length): count for length, count in plan.concurrent_requests.items()},
        "request_slots": plan.request_slots,
        "request_table_bytes": plan.request_table_bytes,
        "assumptions": {
            "dtype": given.weight_dtype,
            "kv_dtype": given.kv_dtype,
            "tables": given.tables,
            "mtp_steps": given.mtp_steps,
            "context_tokens": given.context_tokens,
            "chunked_prefill_size": plan.limits.chunked_prefill_size,
            "graph_max_batch": plan.limits.graph_max_batch,
        },
        "mem_fraction_static": plan.mem_fraction_static,
    }


def as_text(plan: Plan, changes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield lines for a terminal."""
    given, limits = plan.deployment, plan.limits
    tables = f", n-gram tables {_PLACES[given.tables]}" if given.config.has_ngrams else ""
    yield f"{given.weight_dtype} weights, {given.kv_dtype} KV cache{tables}"
    if given.mtp_steps:
        yield f"drafts: {given.mtp_steps} tokens at a time (serval engine --mtp-steps {given.mtp_steps})"
    yield f"engines: {given.engines}, each with tp {given.tp} and ep {given.ep}"
    yield f"context: {given.context_tokens:,} tokens\n"
    rows = [("on each GPU", "GiB", "")]
    rows += [(str(part), _gib(size), "") for part, size in plan.weights_bytes.items()]
    rows += [
        ("all weights", _gib(sum(plan.weights_bytes.values())), ""),
        ("CUDA, NCCL", _gib(given.runtime_bytes), "assumed (--runtime-gib)"),
        ("activations, graphs", _gib(plan.reserve_bytes), _reserve_note(plan)),
        ("KV cache", _gib(plan.kv_bytes), f"{plan.kv_tokens:,} tokens of {plan.kv_bytes_per_token:,} bytes"),
        ("GPU memory", _gib(given.gpu_memory_bytes), ""),
    ]
    yield table(rows, left=frozenset({0, 2}))
    if plan.host_bytes:
        yield f"\npinned host memory  {_gib(plan.host_bytes)} GiB"
    if plan.kv_tokens:
        counts = [f"{count:,} of {length:,} tokens" for length, count in plan.concurrent_requests.items()]
        yield f"\nrequests at once, each engine: {', '.join([*counts, f'at most {plan.request_slots:,}'])}"
        yield f"flags for SGLang: {' '.join(_sglang_flags(plan, limits))}"
    yield "\nfits" if plan.fits else f"\ndoes not fit: {'; '.join(plan.shortcomings)}"
    if not plan.fits:
        yield from (f"would fit with {_as_flags(change)}" for change in changes[:_ALTERNATIVES_SHOWN])
        if len(changes) > _ALTERNATIVES_SHOWN:
            yield f"and in {len(changes) - _ALTERNATIVES_SHOWN} more ways, which --json lists"
        if not changes:
            yield (
                f"no engine of up to {LARGEST_TP_OF_MACHINES} such GPUs fits, whatever --dtype, --kv-dtype, "
                "--tables, --chunked-prefill-size and --context"
            )
        elif all(change.get("tp", given.tp) > LARGEST_TP_TRIED for change in changes):
            yield (
                f"one machine of {LARGEST_TP_TRIED} such GPUs is too small; an engine on several (SGLang's "
                "--nnodes) has not been tried with Serval"
            )
    if (reason := _refusal(plan)) is not None:
        yield f"\nnot served yet: {reason}"


def _refusal(plan: Plan) -> str | None:
    return ARCHITECTURES[plan.deployment.config.architecture].refused_on_gpu


def _reserve_note(plan: Plan) -> str:
    source = "given" if plan.deployment.reserve_bytes is not None else "assumed, SGLang's default"
    if plan.deployment.reserve_bytes is None and plan.deployment.mtp_steps:
        source += " and the graphs of all numbers of draft steps,"
    return (
        f"{source} for chunks of {plan.limits.chunked_prefill_size:,} tokens, graphs of up to "
        f"{plan.limits.graph_max_batch} requests; {_gib(plan.request_table_bytes)} of it is the request table"
    )


def _sglang_flags(plan: Plan, limits: BatchLimits) -> Iterator[str]:
    given = plan.deployment
    yield f"--mem-fraction-static {plan.mem_fraction_static}"
    yield f"--context-length {given.context_tokens}"
    yield f"--chunked-prefill-size {limits.chunked_prefill_size}"
    if given.kv_dtype == "fp8":
        yield "--kv-cache-dtype fp8_e4m3"
    if given.max_running_requests is not None:
        yield f"--max-running-requests {given.max_running_requests}"


def _as_flags(change: Mapping[str, Any]) -> str:
    flags = []
    for field, value in change.items():
        shown = value.chunked_prefill_size if isinstance(value, BatchLimits) else value
        flags.append(f"{_FLAGS[field]} {shown}")
    return " ".join(flags)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:,.2f}"


def _deployment(args: argparse.Namespace) -> Deployment:
    config, stored_dtype = _model(args.model)
    tp = args.tp or args.gpus
    gpu_memory_bytes = round(args.gpu_memory_gib * _GIB)
    limits = default_batch_limits(gpu_memory_bytes, tp=tp)
    return Deployment(
        config=config,
        gpu_memory_bytes=gpu_memory_bytes,
        gpus=args.gpus,
        tp=tp,
        ep=args.ep,
        weight_dtype=args.dtype or stored_dtype,
        kv_dtype=args.kv_dtype,
        tables=args.tables,
        context_tokens=args.context or config.max_position_embeddings,
        runtime_bytes=round(args.runtime_gib * _GIB),
        mtp_steps=args.mtp_steps,
        limits=BatchLimits(
            args.chunked_prefill_size or limits.chunked_prefill_size,
            args.graph_max_batch or limits.graph_max_batch,
        ),
        reserve_bytes=None if args.reserve_gib is None else round(args.reserve_gib * _GIB),
        max_running_requests=args.max_running_requests,
        host_memory_bytes=None if args.host_memory_gib is None else round(args.host_memory_gib * _GIB),
    )


def _model(given: Path) -> tuple[LongcatConfig, WeightDtype]:
    """Return the configuration and the dtype in which its weights are stored, of a folder or by name."""
    path = given / CONFIG_FILE
    known = BY_NAME.get(str(given))
    if known is not None and not given.exists():
        return known.config, known.weights
    if not path.is_file():
        raise CheckpointError(
            f"--model {str(given)!r} is not a checkpoint folder: it holds no {CONFIG_FILE}; known by name "
            f"are {', '.join(BY_NAME)}"
        )
    config = LongcatConfig.from_json_file(path)
    quantization = read_quantization(json.loads(path.read_text(encoding="utf-8")))
    if quantization is None:
        return config, "bf16"
    if not _is_block_fp8(quantization):
        raise CheckpointError(
            f"{path}: weights quantised as {str(quantization)!r} are not planned for; give a bf16 model, or "
            "one in FP8 with blocks of 128 x 128."
        )
    return config, "fp8"


def _is_block_fp8(quantization: Quantization) -> bool:
    return quantization.method == "fp8" and quantization.block == (128, 128)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serval plan",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count, size = positive_int, _gib_number(_LARGEST_GPU_GIB)
    add = parser.add_argument
    add(
        "--gpu-memory-gib",
        type=size,
        metavar="GIB",
        help="memory of one GPU in GiB, nvidia-smi's MiB divided by 1024: A100 80.0, H100 79.6, H200 140.4, "
        "B200 179.1; required but with --rates",
    )
    add("--gpus", type=count, default=1, metavar="N", help="number of GPUs (default 1)")
    add("--tp", type=count, metavar="N", help="tensor-parallel size (default: all GPUs)")
    add("--ep", type=count, default=1, metavar="N", help="expert-parallel size (default 1)")
    add(
        "--model",
        type=Path,
        default=Path("lite"),
        metavar="MODEL",
        help=f"{', '.join(BY_NAME)}, or a folder with a config.json of this family (default lite)",
    )
    add("--dtype", choices=get_args(WeightDtype), help="of linear layers (default: as in --model, else bf16)")
    add("--kv-dtype", choices=get_args(KvDtype), default="bf16", help="of the KV cache (default bf16)")
    add(
        "--tables",
        choices=get_args(TablePlacement),
        default="device",
        help="where the n-gram tables are: bf16 on the GPU (default), bf16 in host memory, 8 bit on the GPU",
    )
    add("--context", type=count, metavar="TOKENS", help="longest request (default: the model's)")
    add_mtp_steps(parser)
    host_size = _gib_number(_LARGEST_HOST_GIB)
    add(
        "--host-memory-gib",
        type=host_size,
        metavar="GIB",
        help="check that host tables fit in so much memory",
    )
    add("--json", action="store_true", help="print JSON")
    add_trace_arguments(parser)
    _add_assumptions(parser)
    return parser


def _add_assumptions(parser: argparse.ArgumentParser) -> None:
    assumed = parser.add_argument_group("assumptions")
    assumed.add_argument(
        "--runtime-gib",
        type=_gib_number(_LARGEST_GPU_GIB, least=0),
        default=1.0,
        metavar="GIB",
        help="memory that CUDA and NCCL take (default 1)",
    )
    assumed.add_argument(
        "--reserve-gib",
        type=_gib_number(_LARGEST_GPU_GIB, least=0),
        metavar="GIB",
        help="memory left for activations and CUDA graphs (default: SGLang's own rule)",
    )
    assumed.add_argument(
        "--chunked-prefill-size", type=positive_int, metavar="TOKENS", help="(default: SGLang's for the GPU)"
    )
    assumed.add_argument(
        "--graph-max-batch",
        type=positive_int,
        metavar="N",
        help="largest captured batch (default: SGLang's)",
    )
    assumed.add_argument(
        "--max-running-requests",
        type=positive_int,
        metavar="N",
        help="limit on requests (default: SGLang's)",
    )


def _gib_number(largest: float, *, least: float | None = None) -> Callable[[str], float]:
    """Return an argparse type: GiB up to `largest`, positive or from `least` on."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(
                f"must be a number of GiB without a unit, such as 79.6, got {text!r}"
            )
        if least is None and not value > 0:
            raise argparse.ArgumentTypeError(f"must be positive, got {text}")
        if least is not None and not value >= least:
            raise argparse.ArgumentTypeError(f"must be at least {least:g}, got {text}")
        if value > largest:
            says = f"must be at most {largest:g} GiB, got {text}; did you give MiB? {text} MiB are "
            raise argparse.ArgumentTypeError(f"{says}{value / 1024:.1f} GiB")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
