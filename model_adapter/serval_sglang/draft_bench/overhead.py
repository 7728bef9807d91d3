"""Compare engines that choose their number of drafts with one without drafts, by time and side by side.

Three engines run at once and take turns with the same requests: one without drafts, one with `--mtp-steps`,
and one whose multi-token-prediction layer runs in passes without drafts too, as SGLang has it by default. For
each size of the batch a line is printed for each of the two:

- time: of the engine without drafts; median of all rounds, then the least and the greatest
- CPU time: the same of all processes of the engines, which other work on the machine disturbs less
- steps: mean number of drafts in a pass

The first rounds are left out: in them the controller tries all numbers of steps. On a GPU the three engines
share the memory: `-- --mem-fraction-static 0.25`.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from serval_sglang.checkpoint.files import load_config
from serval_sglang.consistency.questions import Prompt, prompts
from serval_sglang.draft_bench.speed import answer_s, documented
from serval_sglang.launch import SKIP_LAYER
from serval_sglang.verify.engine import Engine, EngineFailed, running_engine

_PLAIN, _CHOSEN, _EVERY_PASS = "no drafts", "chosen steps", "chosen steps, layer in every pass"
_ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {_PLAIN: {}, _CHOSEN: {}, _EVERY_PASS: {SKIP_LAYER: "0"}}
_COUNTERS = ("serval_engine_drafted_tokens_total", "serval_engine_verifications_total")
_START_TIMEOUT_S = 3600.0
_EXAMPLES = """\
examples:
  serval checkpoint tiny ./never-right --dtype float32 --mtp
  python -m serval_sglang.draft_bench.overhead --model ./never-right --device cpu --dtype float32
  python -m serval_sglang.draft_bench.overhead --model DEMO --device cpu --dtype float32 --documented
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One batch of one engine: seconds, CPU seconds of its processes, drafts and passes of its requests."""

    seconds: float
    cpu_seconds: float
    drafted: float
    passes: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print two lines for each batch; return 1 if an engine failed, else 0."""
    args = parser().parse_args(arguments)
    asked = (
        documented(args.model)
        if args.documented
        else prompts(max(args.batches), vocab_size=load_config(args.model).vocab_size)
    )
    try:
        with ExitStack() as stack:
            engines = {
                variant: stack.enter_context(
                    running_engine(
                        args.model,
                        dtype=args.dtype,
                        device=args.device,
                        mtp_steps=0 if variant == _PLAIN else args.steps,
                        mtp_fixed=False,
                        extra_flags=[f"--max-running-requests={max(args.batches)}", *args.engine_flags],
                        environment=environment,
                        start_timeout_s=_START_TIMEOUT_S,
                    )
                )
                for variant, environment in _ENVIRONMENTS.items()
            }
            for batch in args.batches:
                turns = _take_turns(engines, list(islice(cycle(asked), batch)), args)
                for variant in (_CHOSEN, _EVERY_PASS):
                    print(f"batch {batch}, {variant}: {summary(turns[variant], turns[_PLAIN])}", flush=True)
    except EngineFailed as error:
        print(f"overhead: error: {error}", file=sys.stderr)
        return 1
    return 0


def _take_turns(
    engines: Mapping[str, Engine], asked: Sequence[Prompt], args: argparse.Namespace
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {variant: [] for variant in engines}
    for number in range(args.settle + args.rounds):
        for variant, engine in engines.items():
            turn = take_turn(engine, asked, new_tokens=args.timed_tokens)
            if number >= args.settle:
                turns[variant].append(turn)
    return turns


def take_turn(engine: Engine, asked: Sequence[Prompt], *, new_tokens: int) -> Turn:
    """Have the engine continue all prompts at once by `new_tokens` tokens. Raises `EngineFailed`."""
    counted, worked = _counted(engine), _cpu_seconds(engine.launcher_pid)
    seconds = answer_s(engine, [list(prompt) for prompt in asked], new_tokens=new_tokens)
    worked = _cpu_seconds(engine.launcher_pid) - worked
    drafted, passes = (after - before for after, before in zip(_counted(engine), counted, strict=True))
    return Turn(seconds, worked, drafted, passes)


def summary(turns: Sequence[Turn], plain: Sequence[Turn]) -> str:
    """Return what is printed of an engine's turns, beside those of the engine without drafts."""
    pairs = list(zip(turns, plain, strict=True))
    times = _spread([mine.seconds / others.seconds for mine, others in pairs])
    cpu_times = _spread([mine.cpu_seconds / others.cpu_seconds for mine, others in pairs])
    steps = sum(turn.drafted for turn in turns) / max(sum(turn.passes for turn in turns), 1.0)
    return f"time {times}, CPU time {cpu_times}, {steps:.2f} steps"


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _counted(engine: Engine) -> list[float]:
    return [engine.metric_total(name) for name in _COUNTERS]


def _cpu_seconds(launcher_pid: int) -> float:
    ticks = 0
    for pid in _process_tree(launcher_pid):
        # Fields 14 and 15 of proc(5): user and system time. The second field may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _process_tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _process_tree(int(child))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m serval_sglang.draft_bench.overhead",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="checkpoint with an MTP layer")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="default bfloat16")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default cuda")
    add("--steps", type=int, choices=(1, 2, 3), default=3, metavar="N", help="--mtp-steps (default 3)")
    add("--batches", type=int, nargs="+", default=[1, 8], metavar="N", help="default 1 8")
    add("--timed-tokens", type=int, default=300, metavar="N", help="of each answer (default 300)")
    add("--settle", type=int, default=2, metavar="N", help="rounds left out (default 2)")
    add("--rounds", type=int, default=7, metavar="N", help="of which the median is taken (default 7)")
    add("--documented", action="store_true", help="ask the demo model's documented questions and calls")
    add("engine_flags", nargs="*", metavar="-- SGLANG_FLAG", help="any flags of SGLang, for all engines")
    return made


if __name__ == "__main__":
    sys.exit(main())
