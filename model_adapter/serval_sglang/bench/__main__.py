"""Measure the built-in model and Serval's in the real engine, on one GPU, without weights.

A few layers of LongCat-Flash-Lite at full width, with random weights and random prompts, in one engine after
another with one thing changed. The cost of a layer is the difference between two values of --layers. The
n-gram tables are as large as lets every variant fit the GPU, at most as large as the model's.

A variant's line is printed when it is done, and each figure is appended to the file of --json as soon as it
is there, one object a line:

    {"what": "conditions", "gpu_memory_gib": 79.6, "table_ratio": 66, "layers": 2, ...}
    {"what": "start", "variant": "serval", "check": "ok", "s": 81.2}
    {"what": "answers", "variant": "serval", "check": "ok", "beside_others": 0.003, "as_in": null, ...}
    {"what": "decode", "variant": "serval", "check": "ok", "batch": 64, "us": 2104.5}
    {"what": "prefill", "variant": "serval", "check": "ok", "tokens": 8192, "us": 40120.0, ...}
    {"what": "memory", "variant": "serval", "check": "ok", "weight_gb": 64.1, "kv_cache_gb": ..., ...}

Before anything is timed, the log-probabilities of a prompt are compared: alone and beside others, and with
those of the first variant that has the same weights. A variant that fails has a last object with a `check` of
"failed: ..." and no figure, the others go on, and the exit code is 1. One that is left out, for want of a GPU
or of time, has "skipped: ...".
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serval_sglang.bench.answers import Answers, compare_answers
from serval_sglang.bench.fit import table_ratio
from serval_sglang.bench.rows import OK, Output, Row, head, line
from serval_sglang.bench.server import Server, ServerFailed, running_server
from serval_sglang.checkpoint.layout import TABLE_DTYPE_KEY
from serval_sglang.config import LongcatConfig
from serval_sglang.gpu_memory import UnknownMemoryError, gpu_memory_bytes
from serval_sglang.known_configs import LITE, TINY, TINY_FP8
from serval_sglang.launch import engine_environment, sglang_arguments
from serval_sglang.options import EngineOptions
from serval_sglang.plan import PlanError
from serval_sglang.plan.shard_sizes import TablePlacement
from serval_sglang.settings import available_cpus, inherited_environment

_OVERLAP_ALL = 1 << 20
_EXAMPLES = """\
examples:
  python -m serval_sglang.bench                                       every variant, two layers, one GPU
  python -m serval_sglang.bench --variants serval overlap --layers 4  is the second stream worth it here?
  python -m serval_sglang.bench --minutes 10 --json engine.jsonl      what ten minutes allow
  python -m serval_sglang.bench --layers 14 --fp8                     the whole model, on an H200
  python -m serval_sglang.bench --device cpu --small                  does it run?
"""


@dataclass(frozen=True)
class Variant:
    """A configuration to measure; `tables` is the place of its n-gram tables for `serval plan`."""

    plugin: bool = True
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tables: TablePlacement = "device"


VARIANTS = {
    "built-in": Variant(plugin=False),
    "serval": Variant(),
    "overlap": Variant(options={"moe_overlap_tokens": _OVERLAP_ALL}),
    "host tables": Variant(options={"ngram_tables": "host"}, tables="host"),
    "int8 tables": Variant(config={TABLE_DTYPE_KEY: "int8"}, tables="8bit"),
    # Scales stay on the device; counting codes there as well is on the safe side.
    "host int8 tables": Variant(
        options={"ngram_tables": "host"}, config={TABLE_DTYPE_KEY: "int8"}, tables="8bit"
    ),
}


@dataclass(frozen=True)
class Bench:
    """One run: the model's size, and when it ends (seconds of the monotonic clock)."""

    args: argparse.Namespace
    config: LongcatConfig
    deadline: float
    output: Output
    answers: Answers


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a variant that could have run did not, or answered wrongly."""
    begin = time.monotonic()
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        config, memory = _fitting_config(args)
    except (PlanError, UnknownMemoryError) as error:
        parser.exit(1, f"bench: error: {error}\n")
    output = Output(args.json)
    print(_conditions(args, config, memory, output), head(args.batches), sep="\n", flush=True)
    deadline = math.inf if args.minutes is None else begin + 60 * args.minutes
    bench = Bench(args, config, deadline, output, Answers())
    has_failed = False
    for name in args.variants:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        row = _measure(name, bench)
        print(line(row, args.batches), flush=True)
        has_failed |= row.check.startswith("failed")
    return int(has_failed)


def _fitting_config(args: argparse.Namespace) -> tuple[LongcatConfig, int | None]:
    """Return the model to measure, and the memory in bytes that its size was derived from."""
    config = dataclasses.replace(_full_config(args), num_layers=args.layers)
    if args.table_ratio is not None:
        return dataclasses.replace(config, ngram_vocab_size_ratio=args.table_ratio), None
    if args.device == "cpu":
        return config, None
    given = args.gpu_memory_gib
    memory = gpu_memory_bytes() if given is None else round(given * (1 << 30))
    ratio = table_ratio(
        config,
        memory,
        {VARIANTS[name].tables for name in args.variants},
        weight_dtype="fp8" if args.fp8 else "bf16",
        context_tokens=_context_tokens(args),
        cached_tokens=max(args.batches) * _decode_tokens(args) + args.prefill,
    )
    return dataclasses.replace(config, ngram_vocab_size_ratio=ratio), memory


def _full_config(args: argparse.Namespace) -> LongcatConfig:
    if not args.small:
        return LITE
    return TINY_FP8 if args.fp8 else TINY


def _decode_tokens(args: argparse.Namespace) -> int:
    return int(args.prompt + args.steps + 2)


def _context_tokens(args: argparse.Namespace) -> int:
    """Return a context that holds every request, so that tables of the whole context take no memory."""
    longest = max(_decode_tokens(args), int(args.prefill))
    return 1 << (longest + 64).bit_length()


def _conditions(args: argparse.Namespace, config: LongcatConfig, memory: int | None, output: Output) -> str:
    """Write the conditions of all figures, and return them in a sentence."""
    full = _full_config(args).ngram_vocab_size_ratio
    ratio = config.ngram_vocab_size_ratio
    gib = None if memory is None else memory / (1 << 30)
    output.write(
        "conditions",
        gpu_memory_gib=gib,
        table_ratio=ratio,
        layers=args.layers,
        small=args.small,
        fp8=args.fp8,
        device=args.device,
        sglang=version("sglang"),
        torch=version("torch"),
    )
    on = "" if gib is None else f" on {gib:.1f} GiB"
    reduced = "the model's own" if ratio == full else f"of the model's {full:g}, so that every variant fits"
    return f"{args.layers} layers{on}; tables of {ratio:g} vocabularies, {reduced}\n"


def _measure(name: str, bench: Bench) -> Row:
    """Start an engine and measure it; what goes wrong becomes the row's check."""
    variant = VARIANTS[name]
    if bench.args.device == "cpu" and not variant.plugin:
        return _without_figures(name, "start", "skipped: runs on a GPU only", bench.output)
    if time.monotonic() >= bench.deadline:
        reason = f"skipped: {bench.args.minutes:g} minutes are over"
        return _without_figures(name, "start", reason, bench.output)
    with tempfile.TemporaryDirectory(prefix="serval-bench-") as folder:
        model, log = Path(folder) / "model", Path(folder) / "engine.log"
        _write_model(model, variant, bench)
        arguments, environment = _engine_command(model, variant, bench.args)
        begin = time.monotonic()
        try:
            with running_server(
                arguments,
                environment,
                vocab_size=bench.config.vocab_size,
                log=log,
                deadline=bench.deadline,
            ) as server:
                bench.output.write("start", variant=name, check=OK, s=time.monotonic() - begin)
                return _measured(name, server, bench)
        except ServerFailed as error:
            print(error, file=sys.stderr)
            return _without_figures(name, "start", f"failed: {error.reason}", bench.output)
        except (OSError, HTTPException, RuntimeError, ValueError) as error:
            return _without_figures(
                name, "requests", f"failed: {type(error).__name__}: {error}", bench.output
            )


def _without_figures(name: str, what: str, check: str, output: Output) -> Row:
    output.write(what, variant=name, check=check)
    print(f"{name}: {check}", file=sys.stderr, flush=True)
    return Row(name, check)


def _engine_command(
    model: Path, variant: Variant, args: argparse.Namespace
) -> tuple[list[str], dict[str, str]]:
    """Return arguments for `random_engine`, and the environment."""
    options = EngineOptions(
        model=model,
        device=args.device,
        sglang_flags=[
            "--load-format=dummy", "--skip-tokenizer-init", f"--context-length={_context_tokens(args)}",
            f"--dtype={'float32' if args.small else 'bfloat16'}", *args.sglang_flags,
        ],
        **variant.options,
    )  # fmt: skip
    arguments = [flag for flag in sglang_arguments(options) if not flag.startswith("--port=")]
    environment = engine_environment(options, inherited_environment(), available_cpus())
    if not variant.plugin:
        # The same engine without the adapter, whose model package SGLang would load instead of its own.
        environment.pop("SGLANG_EXTERNAL_MODEL_PACKAGE", None)
        environment["SGLANG_PLUGINS"] = "none"
    return ["serval" if variant.plugin else "built-in", *arguments], environment


def _measured(name: str, server: Server, bench: Bench) -> Row:
    args, output = bench.args, bench.output
    variant = VARIANTS[name]
    weights = (variant.plugin, variant.config.get(TABLE_DTYPE_KEY))
    answers = compare_answers(server, bench.answers, variant=name, weights=weights)
    output.write("answers", variant=name, **dataclasses.asdict(answers))
    if answers.check != OK:
        print(f"{name}: {answers.check}", file=sys.stderr, flush=True)
        return Row(name, answers.check)
    step_s: dict[int, float] = {}
    for batch in args.batches:
        if time.monotonic() >= bench.deadline:
            return Row(name, step_s=step_s)
        step_s[batch] = server.decode_step_s(
            batch, prompt_tokens=args.prompt, steps=args.steps, repeats=args.repeats
        )
        output.write("decode", variant=name, check=OK, batch=batch, us=1e6 * step_s[batch])
    prefill_s = server.prefill_s(args.prefill, repeats=args.repeats)
    rate = args.prefill / prefill_s
    output.write(
        "prefill", variant=name, check=OK, tokens=args.prefill, us=1e6 * prefill_s, tokens_per_s=rate
    )
    memory_gb = server.memory_gb()
    output.write("memory", variant=name, check=OK, **{f"{part}_gb": gb for part, gb in memory_gb.items()})
    return Row(name, step_s=step_s, prefill_tokens_per_s=rate, memory_gb=memory_gb)


def _write_model(folder: Path, variant: Variant, bench: Bench) -> None:
    """Write config.json, the only file that a model with random weights needs."""
    folder.mkdir()
    content = {**bench.config.to_dict(), "torch_dtype": "bfloat16", **variant.config}
    if bench.args.fp8:
        from serval_sglang.checkpoint.fp8 import QUANTIZATION_CONFIG

        content["quantization_config"] = QUANTIZATION_CONFIG
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serval_sglang.bench",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME",
        help=f"of {', '.join(map(repr, VARIANTS))} (default: all)")  # fmt: skip
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default cuda")
    add("--layers", type=int, default=2, metavar="N", help="double layers (default 2; the model has 14)")
    add("--batches", type=int, nargs="+", default=[1, 16, 64, 256], metavar="N", help="requests at once")
    add("--prompt", type=int, default=128, metavar="TOKENS", help="before the decode steps (default 128)")
    add("--steps", type=int, default=128, metavar="N", help="decode steps that are timed (default 128)")
    add("--prefill", type=int, default=8192, metavar="TOKENS", help="of the prompts that are timed")
    add("--repeats", type=int, default=5, metavar="N", help="of which the median is taken (default 5)")
    add("--minutes", type=float, metavar="M", help="measure nothing more after so much wall time in all")
    add("--gpu-memory-gib", type=float, metavar="GIB", help="default: as nvidia-smi shows it")
    add("--table-ratio", type=float, metavar="R",
        help="rows of a table, in vocabularies (default: as fit, at most 78, 62.8 GB in all)")  # fmt: skip
    add("--fp8", action="store_true", help="linear layers in block-wise FP8, as in the FP8 checkpoint")
    add("--small", action="store_true", help="the tiny test model instead of full width, in float32")
    add("--json", type=Path, metavar="FILE", help="write each figure there as it is measured")
    add("sglang_flags", nargs="*", metavar="-- SGLANG_FLAG", help="any flags of SGLang")
    return parser


if __name__ == "__main__":
    sys.exit(main())
