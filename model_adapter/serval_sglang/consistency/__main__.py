"""Ask an engine the same questions in different ways and compare tokens and log-probabilities.

Ways: alone with an empty cache (the first answers, with which the others are compared), again from the prefix
cache, and all together in one batch; with --beside, alone on a second engine with other flags. No reference
is needed, so this is also for the real weights.

Exit code 0: they agree; tokens part only where two tokens are within rounding, and log-probabilities differ,
in bfloat16, by 0.02 in the mean at most. 1: they do not, or an engine failed.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from serval_sglang.checkpoint.files import load_config
from serval_sglang.consistency.comparison import Agreement, agreement
from serval_sglang.consistency.questions import Prompt, ask_again, ask_alone, ask_together, prompts
from serval_sglang.verify.engine import Engine, EngineFailed, Generation, running_engine
from serval_sglang.verify.verification import Bound

_START_TIMEOUT_S = 3600.0
_EXAMPLES = """\
examples:
  python -m serval_sglang.consistency --model /models/LongCat-Flash-Lite --url http://127.0.0.1:30000
  python -m serval_sglang.consistency --model ./small --beside=--chunked-prefill-size=16
  python -m serval_sglang.consistency --model ./small --tp 2 --beside=--cuda-graph-backend-decode=disabled
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each way; return the exit code."""
    args = parser().parse_args(arguments)
    asked = prompts(args.requests, vocab_size=load_config(args.model).vocab_size)
    try:
        agreements = list(_shown(_agreements(args, asked)))
    except EngineFailed as error:
        print(f"consistency: error: {error}", file=sys.stderr)
        return 1
    red = [found.way for found in agreements if not found.agrees]
    print(f"INCONSISTENT: {', '.join(red)}" if red else f"consistent in {len(agreements)} ways", flush=True)
    return int(bool(red))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m serval_sglang.consistency",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="checkpoint that the engine serves")
    add("--url", help="a running engine (default: one is started for the checkpoint)")
    add(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of the engine (default bfloat16)",
    )
    add("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU, else cpu")
    add("--tp", type=int, default=1, metavar="N", help="tensor-parallel ranks (default 1)")
    add("--ep", type=int, default=1, metavar="N", help="of these, ranks that share out the experts")
    add("--requests", type=int, default=64, metavar="N", help="questions, and batch size (default 64)")
    add("--tokens", type=int, default=16, metavar="N", help="of each answer (default 16)")
    add("--mean-bound", type=float, metavar="X", help="in bfloat16, instead of 0.02 (FP8 on a GPU: 0.06)")
    add("--beside", action="append", default=[], metavar="FLAGS", help="SGLang's flags of another engine")
    add("engine_flags", nargs="*", metavar="-- SGLANG_FLAG", help="any flags of SGLang, for all engines")
    return made


def _agreements(args: argparse.Namespace, asked: Sequence[Prompt]) -> Iterator[Agreement]:
    bound = None if args.mean_bound is None else Bound("mean", args.mean_bound)
    compare = partial(agreement, dtype=args.dtype, bound=bound)
    with _engine(args) as engine:
        first = ask_alone(engine, asked, new_tokens=args.tokens)
        ways: dict[str, Callable[..., list[Generation]]] = {
            "again, from the prefix cache": ask_again,
            f"{len(asked)} in one batch": ask_together,
        }
        for way, ask in ways.items():
            yield compare(way, first, ask(engine, asked, new_tokens=args.tokens))
    for flags in args.beside:
        with _engine(args, *shlex.split(flags)) as engine:
            yield compare(f"engine with {flags}", first, ask_alone(engine, asked, new_tokens=args.tokens))


def _engine(args: argparse.Namespace, *more_flags: str) -> AbstractContextManager[Engine]:
    if args.url is not None and not more_flags:
        return nullcontext(Engine(args.url.rstrip("/"), launcher_pid=0, log_path=Path(os.devnull)))
    return running_engine(
        args.model,
        dtype=args.dtype,
        tp=args.tp,
        ep=args.ep,
        device=args.device,
        extra_flags=[*args.engine_flags, *more_flags],
        start_timeout_s=_START_TIMEOUT_S,
    )


def _shown(agreements: Iterator[Agreement]) -> Iterator[Agreement]:
    for found in agreements:
        print(found, flush=True)
        yield found


if __name__ == "__main__":
    sys.exit(main())
