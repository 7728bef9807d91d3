"""Measure the built-in model and Serval's in the real engine, on one GPU, without weights.

A few layers of LongCat-Flash-Lite at full width, with random weights and random prompts, in one engine after
another with one thing changed. The cost of a layer is the difference between two values of --layers.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serval_sglang.bench.server import Server, ServerFailed, running_server
from serval_sglang.checkpoint.layout import TABLE_DTYPE_KEY
from serval_sglang.config import LongcatConfig
from serval_sglang.known_configs import LITE, TINY
from serval_sglang.launch import engine_environment, sglang_arguments
from serval_sglang.options import EngineOptions
from serval_sglang.settings import available_cpus, inherited_environment

_OVERLAP_ALL = 1 << 20
_EXAMPLES = """\
examples:
  python -m serval_sglang.bench                                       every variant, two layers, one GPU
  python -m serval_sglang.bench --variants serval overlap --layers 4  is the second stream worth it here?
  python -m serval_sglang.bench --device cpu --small                  does it run?
"""


@dataclass(frozen=True)
class Variant:
    """A configuration to measure."""

    plugin: bool = True
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


VARIANTS = {
    "built-in": Variant(plugin=False),
    "serval": Variant(),
    "overlap": Variant(options={"moe_overlap_tokens": _OVERLAP_ALL}),
    "host tables": Variant(options={"ngram_tables": "host"}),
    "int8 tables": Variant(config={TABLE_DTYPE_KEY: "int8"}),
    "host int8 tables": Variant(options={"ngram_tables": "host"}, config={TABLE_DTYPE_KEY: "int8"}),
}


@dataclass(frozen=True)
class Row:
    """Measurements of one variant; if there are none, `note` gives the reason."""

    variant: str
    step_s: Mapping[int, float] = dataclasses.field(default_factory=dict)  # by batch
    prefill_tokens_per_s: float = 0.0
    memory_gb: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a variant that could have run did not."""
    args = _parser().parse_args(arguments)
    rows = []
    for name in args.variants:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        rows.append(_measure(name, args))
    print("\n".join(markdown(rows, args.batches)))
    if args.json:
        content = [dataclasses.asdict(row) for row in rows]
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return int(any(row.note and row.note != _NEEDS_GPU for row in rows))


_NEEDS_GPU = "runs on a GPU only"


def markdown(rows: Sequence[Row], batches: Sequence[int]) -> Iterator[str]:
    """Yield the lines of a table with one row per variant."""
    steps = [f"step of {batch}, ms" for batch in batches]
    head = ["variant", *steps, f"tokens/s at {batches[-1]}", "prefill tokens/s", "weights, GB", "graphs, GB"]
    yield f"| {' | '.join(head)} |"
    yield f"| --- |{' ---: |' * (len(head) - 1)}"
    for row in rows:
        if row.note:
            yield f"| {row.variant} | {row.note} |{' |' * (len(head) - 2)}"
            continue
        cells = [f"{row.step_s[batch] * 1e3:.3f}" for batch in batches]
        cells.append(f"{batches[-1] / row.step_s[batches[-1]]:,.0f}")
        cells.append(f"{row.prefill_tokens_per_s:,.0f}")
        cells += [f"{row.memory_gb[part]:.2f}" for part in ("weight", "graph")]
        yield f"| {row.variant} | {' | '.join(cells)} |"


def _measure(name: str, args: argparse.Namespace) -> Row:
    variant = VARIANTS[name]
    if args.device == "cpu" and not variant.plugin:
        return Row(name, note=_NEEDS_GPU)
    with tempfile.TemporaryDirectory(prefix="serval-bench-") as folder:
        model, log = Path(folder) / "model", Path(folder) / "engine.log"
        config = _write_model(model, variant, args)
        options = EngineOptions(
            model=model,
            device=args.device,
            sglang_flags=[
                "--load-format=dummy", "--skip-tokenizer-init",
                f"--dtype={'float32' if args.small else 'bfloat16'}", *args.sglang_flags,
            ],
            **variant.options,
        )  # fmt: skip
        environment = engine_environment(options, inherited_environment(), available_cpus())
        if not variant.plugin:
            environment = {**inherited_environment(), "SGLANG_PLUGINS": "none"}
        arguments = [flag for flag in sglang_arguments(options) if not flag.startswith("--port=")]
        try:
            with running_server(
                ["serval" if variant.plugin else "built-in", *arguments],
                environment,
                vocab_size=config.vocab_size,
                log=log,
            ) as server:
                return _measured(name, server, args)
        except ServerFailed as error:
            print(error, file=sys.stderr)
            return Row(name, note="did not start")


def _measured(name: str, server: Server, args: argparse.Namespace) -> Row:
    step_s = {
        batch: server.decode_step_s(batch, prompt_tokens=args.prompt, steps=args.steps, repeats=args.repeats)
        for batch in args.batches
    }
    rate = server.prefill_tokens_per_s(args.prefill, repeats=args.repeats)
    return Row(name, step_s=step_s, prefill_tokens_per_s=rate, memory_gb=server.memory_gb())


def _write_model(folder: Path, variant: Variant, args: argparse.Namespace) -> LongcatConfig:
    """Write config.json, the only file that a model with random weights needs."""
    config = dataclasses.replace(
        TINY if args.small else LITE,
        num_layers=args.layers,
        **({} if args.table_ratio is None else {"ngram_vocab_size_ratio": args.table_ratio}),
    )
    folder.mkdir()
    content = {**config.to_dict(), "torch_dtype": "bfloat16", **variant.config}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return config


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
    add("--table-ratio", type=float, metavar="R",
        help="rows of a table, in vocabularies (default 78: 62.8 GB in all tables)")  # fmt: skip
    add("--small", action="store_true", help="the tiny test model instead of full width, in float32")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    add("sglang_flags", nargs="*", metavar="-- SGLANG_FLAG", help="any flags of SGLang")
    return parser


if __name__ == "__main__":
    sys.exit(main())
