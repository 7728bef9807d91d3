"""Show that drafts change no answer, then how much faster they are: one engine for each number of steps.

First the answers of the engine without drafts are compared: with its own in a batch, with those of each
engine with drafts alone and in a batch. In float32 (on a CPU only: SGLang's kernels for GPUs compute in 16
bits) tokens may part only at a tie of 4e-3 nats. In bfloat16 a batch rounds otherwise than a request alone
and so does a run of drafts, so the share of equal answers with drafts is to be read beside the share without.
On a GPU, an engine that runs without CUDA graphs or the overlap of batches is a failure too.

Then tokens a second are measured by batch size, and the acceptance of drafts by position. An engine whose
answers are wrong shows no speed. Each row is appended to the file of --json, one object a line:

    {"what": "answers", "variant": "3 drafts", "check": "ok", "equal_alone": 1.0, "equal_in_batch": 0.97}
    {"what": "drafts", "variant": "3 drafts", "check": "ok", "batch": 8, "tokens_per_s": 900.0, ...}

Exit code 0: all answers agree. 1: some do not, or an engine failed.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from serval_sglang.bench.rows import OK, Output
from serval_sglang.checkpoint.files import load_config
from serval_sglang.consistency.comparison import Agreement, agreement
from serval_sglang.consistency.questions import Prompt, ask_alone, ask_together, prompts
from serval_sglang.draft_bench.speed import documented, measure_speed
from serval_sglang.verify.engine import Engine, EngineFailed, Generation, running_engine
from serval_sglang.verify.verification import Bound

_START_TIMEOUT_S = 3600.0
_EXAMPLES = """\
examples:
  python -m serval_sglang.draft_bench --model /models/LongCat-Flash-Lite --documented --tp 2 --ep 2
  python -m serval_sglang.draft_bench --model ./drafting --steps 3 --json drafts.jsonl
  python -m serval_sglang.draft_bench --model ./drafting --device cpu --dtype float32 --batches 1 8
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each comparison and each figure; return the exit code."""
    made = parser()
    args = made.parse_args(arguments)
    if (args.device, args.dtype) == ("cuda", "float32"):
        made.error("--dtype float32 needs --device cpu: SGLang computes no float32 on GPUs")
    asked = prompts(args.requests, vocab_size=load_config(args.model).vocab_size)
    output = Output(args.json)
    first: list[Generation] = []
    red = []
    for steps in sorted({0, *args.steps}):
        variant = variant_name(steps)
        try:
            with _engine(args, steps) as engine:
                first = first or ask_alone(engine, asked, new_tokens=args.tokens)
                if not _answers_agree(args, engine, steps, first, output):
                    red.append(variant)
                    continue
                _show_speed(args, engine, steps, asked, output)
        except EngineFailed as error:
            print(f"draft_bench: error: {variant}: {error}", file=sys.stderr)
            output.write("answers", variant=variant, check="failed: the engine failed, see the log")
            red.append(variant)
            if not first:
                break
    print(f"DIFFERENT OR FAILED: {', '.join(red)}" if red else "the same answers with drafts", flush=True)
    return int(bool(red))


def variant_name(steps: int) -> str:
    """Return the words for an engine that drafts `steps` tokens at a time."""
    return {0: "no drafts", 1: "1 draft"}.get(steps, f"{steps} drafts")


def missing_features(log: str, *, steps: int) -> list[str]:
    """Return what an engine on a GPU ought to use and, by its log, does not: CUDA graphs, overlap."""
    graphs = f"Capture target {'verify' if steps else 'decode'} CUDA graph end"
    wanted = {"CUDA graphs": graphs, "overlap": "'disable_overlap_schedule': False"}
    return [feature for feature, line in wanted.items() if line not in log]


def _answers_agree(
    args: argparse.Namespace, engine: Engine, steps: int, first: Sequence[Generation], output: Output
) -> bool:
    """Compare with the first answers and write the row; the first engine is compared in a batch only."""
    variant, asked = variant_name(steps), [tuple(answer.prompt) for answer in first]
    ask = partial(ask_together, engine, asked, new_tokens=args.tokens)
    bound = None if args.mean_bound is None else Bound("mean", args.mean_bound)
    compare = partial(agreement, first=first, dtype=args.dtype, bound=bound)
    found: dict[str, Agreement] = {}
    if steps:
        alone = ask_alone(engine, asked, new_tokens=args.tokens)
        found["equal_alone"] = compare(f"{variant}, alone", others=alone)
    found["equal_in_batch"] = compare(f"{variant}, {args.at_once} at once", others=ask(at_once=args.at_once))
    for compared in found.values():
        print(compared, flush=True)
    faults = [compared.way for compared in found.values() if not compared.agrees]
    if args.device == "cuda":
        faults += [f"no {feature}" for feature in missing_features(engine.log(), steps=steps)]
    shares = {name: compared.equal / compared.requests for name, compared in found.items()}
    check = f"failed: {', '.join(faults)}" if faults else OK
    output.write("answers", variant=variant, check=check, **shares)
    return not faults


def _show_speed(
    args: argparse.Namespace, engine: Engine, steps: int, asked: Sequence[Prompt], output: Output
) -> None:
    timed = documented(args.model) if args.documented else asked
    for batch in args.batches:
        speed = measure_speed(
            engine, timed, batch=batch, steps=steps, new_tokens=args.timed_tokens, repeats=args.repeats
        )
        figures = dataclasses.asdict(speed)
        output.write("drafts", variant=variant_name(steps), check=OK, batch=batch, **figures)
        accepted = " ".join(f"{share:.1%}" for share in speed.accepted) or "-"
        print(
            f"{variant_name(steps)}, batch {batch}: {speed.tokens_per_s:,.1f} tokens/s, "
            f"{speed.tokens_per_pass:.2f} tokens a pass, accepted by position {accepted}",
            flush=True,
        )


def _engine(args: argparse.Namespace, steps: int) -> AbstractContextManager[Engine]:
    return running_engine(
        args.model,
        dtype=args.dtype,
        tp=args.tp,
        ep=args.ep,
        device=args.device,
        mtp_steps=steps,
        # The adapter's limit with drafts is below the largest batch.
        extra_flags=[f"--max-running-requests={max(*args.batches, args.at_once)}", *args.engine_flags],
        start_timeout_s=_START_TIMEOUT_S,
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m serval_sglang.draft_bench",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="checkpoint with an MTP layer")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="default bfloat16")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default cuda")
    add("--tp", type=int, default=1, metavar="N", help="tensor-parallel ranks (default 1)")
    add("--ep", type=int, default=1, metavar="N", help="of these, ranks that share out the experts")
    add("--steps", type=int, nargs="+", choices=(0, 1, 2, 3), default=[1, 2, 3], metavar="N",
        help="tokens drafted at a time, beside none (default 1 2 3)")  # fmt: skip
    add("--requests", type=int, default=32, metavar="N", help="answers that are compared (default 32)")
    add("--tokens", type=int, default=64, metavar="N", help="of each of these (default 64)")
    add("--at-once", type=int, default=16, metavar="N", help="requests of the compared batch (default 16)")
    add("--mean-bound", type=float, metavar="X", help="in bfloat16, instead of 0.02 (FP8 on a GPU: 0.06)")
    add("--batches", type=int, nargs="+", default=[1, 8, 64], metavar="N", help="timed (default 1 8 64)")
    add("--timed-tokens", type=int, default=256, metavar="N", help="of a timed answer (default 256)")
    add("--repeats", type=int, default=3, metavar="N", help="of which the median is taken (default 3)")
    add("--documented", action="store_true", help="time the documented questions and calls, for real weights")
    add("--json", type=Path, metavar="FILE", help="write each row there as it is measured")
    add("engine_flags", nargs="*", metavar="-- SGLANG_FLAG", help="any flags of SGLang, for all engines")
    return made


if __name__ == "__main__":
    sys.exit(main())
