"""The tuning itself, in the environment of an engine: `serval_sglang.moe_tuning` starts it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serval_sglang.bench.rows import OK, Output
from serval_sglang.config import LongcatConfig
from serval_sglang.known_configs import LITE
from serval_sglang.moe_tuning import kernel
from serval_sglang.moe_tuning.arguments import TOKENS, parser
from serval_sglang.moe_tuning.experts import (
    Experts,
    Shape,
    expected_output,
    expert_shape,
    random_experts,
    random_tokens,
)
from serval_sglang.moe_tuning.search import BF16_AXES, FP8_AXES, Launch, Trials, search, spelled_out
from serval_sglang.moe_tuning.trial import checked_seconds

# Relative to the length of a slot's output. In bfloat16 each rounding costs 0.3 %; in FP8 the kernel also
# quantises its inputs, which costs 3 % in each product.
_LARGEST_ERROR = {"bf16": 0.02, "fp8": 0.12}
_HEAD = """\
| tokens | default, µs | tuned, µs | default / tuned | launches tried (rejected) | launch |
| ---: | ---: | ---: | ---: | ---: | --- |"""


@dataclass(frozen=True)
class Tuned:
    """Result for one number of tokens."""

    tokens: int
    trials: Trials
    default_s: float | None  # None if SGLang's own launch was rejected

    def line(self) -> str:
        """Return a line of the table."""
        count = f"{len(self.trials.seconds)} ({self.trials.rejected})"
        best = self.trials.fastest()
        if best is None:
            return f"| {self.tokens} | failed: no launch is right | | | {count} | |"
        launch, seconds = best
        default = "-" if self.default_s is None else f"{1e6 * self.default_s:,.1f}"
        gain = "-" if self.default_s is None else f"{self.default_s / seconds:.2f}"
        shown = ", ".join(f"{name} {value}" for name, value in launch.items())
        return f"| {self.tokens} | {default} | {1e6 * seconds:,.1f} | {gain} | {count} | {shown} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune each number of tokens, print and write each result; return 1 if no launch was right for one."""
    args = parser().parse_args(arguments)
    if not torch.cuda.is_available():
        print("moe_tuning: error: torch finds no GPU here.", file=sys.stderr)
        return 1
    deadline = time.monotonic() + 60 * args.minutes
    config = LITE if args.model is None else LongcatConfig.from_json_file(args.model / "config.json")
    shape = expert_shape(config, tp=args.tp, ep=args.ep, dtype=args.dtype)
    with torch.inference_mode(), kernel.sglang_configured():
        return tune(shape, args, torch.device("cuda"), deadline)


def tune(shape: Shape, args: argparse.Namespace, device: torch.device, deadline: float) -> int:
    """Write the file of `shape` below `args.out`, complete after each of `args.tokens`."""
    file = kernel.config_file(shape, args.out)
    # SGLang takes the launch of the nearest number, so those that are not tuned have its default.
    launches = {tokens: kernel.default_launch(shape, tokens) for tokens in {*TOKENS, *args.tokens}}
    tuned = kernel.read_launches(file)
    launches |= tuned
    output = Output(args.json)
    torch.manual_seed(0)
    experts = random_experts(shape, device)
    print(f"{file}\n\n{_HEAD}", flush=True)
    has_failed = False
    for place, tokens in enumerate(args.tokens):
        left = deadline - time.monotonic()
        if left <= 0:
            print(f"moe_tuning: {args.minutes:g} minutes are over; run it again to go on.", file=sys.stderr)
            break
        end = time.monotonic() + left / (len(args.tokens) - place)
        result = _tuned(shape, experts, tokens, known=list(tuned.values()), device=device, end=end)
        best = result.trials.fastest()
        print(result.line(), flush=True)
        _write_row(result, output)
        if best is None:
            has_failed = True
            continue
        launches[tokens] = tuned[tokens] = best[0]
        kernel.write_launches(file, launches)
    return int(has_failed)


def _tuned(
    shape: Shape, experts: Experts, count: int, *, known: list[Launch], device: torch.device, end: float
) -> Tuned:
    tokens = random_tokens(shape, count, device)
    expected = expected_output(experts, tokens)
    default = spelled_out(kernel.default_launch(shape, count))

    def measure(launch: Launch) -> float | None:
        call = kernel.experts_call(shape, experts, tokens, launch)
        return checked_seconds(call, expected, device, largest=_LARGEST_ERROR[shape.dtype], launch=launch)

    axes = FP8_AXES if shape.dtype == "fp8" else BF16_AXES
    trials = search([default, *known], axes, measure, lambda: time.monotonic() >= end)
    return Tuned(count, trials, trials.seconds.get(tuple(sorted(default.items()))))


def _write_row(result: Tuned, output: Output) -> None:
    best = result.trials.fastest()
    counts = {"tried": len(result.trials.seconds), "rejected": result.trials.rejected}
    if best is None:
        output.write("moe", tokens=result.tokens, check="failed: no launch is right", **counts)
        return
    launch, seconds = best
    default_us = None if result.default_s is None else 1e6 * result.default_s
    times = {"us": 1e6 * seconds, "default_us": default_us}
    output.write("moe", tokens=result.tokens, check=OK, **times, **counts, launch=launch)


if __name__ == "__main__":
    sys.exit(main())
