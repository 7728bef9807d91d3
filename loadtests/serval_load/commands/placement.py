"""Compare policies that choose an engine, by simulation."""

import argparse
from dataclasses import replace

from serval_load.placement.engine_model import Speeds
from serval_load.placement.policies import POLICIES
from serval_load.placement.simulation import World, simulate

_EXAMPLE = """
examples:
  python -m serval_load placement
  python -m serval_load placement --gateways 1 --agents-per-s 0 --population 70 --kv-tokens 300000 \\
      --bound-s 300
  python -m serval_load placement --only "two homes" "conversation hash" \\
      --agents-per-s 0 --questions-per-s 16 --keys 150 --skew 0 \\
      --system-tokens 6144 --question-tokens 1280 --kv-tokens 308000 --seconds 240
"""
_OPTIONS = (
    "engines", "gateways", "seconds", "keys", "skew", "system_tokens", "agents_per_s", "turns", "think_s",
    "questions_per_s", "question_tokens", "population", "working_set", "bound_s", "good_s", "seed",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    world = World()
    parser.add_argument("--only", nargs="+", choices=POLICIES, default=list(POLICIES), help="policies")
    for name in _OPTIONS:
        default = getattr(world, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--sticky", action="store_true", help="a conversation stays with its gateway")
    kv_tokens = world.speeds.kv_tokens
    parser.add_argument("--kv-tokens", type=int, default=kv_tokens, help="KV cache of an engine, in tokens")


def run(args: argparse.Namespace) -> int:
    """Simulate and print the table."""
    given = {name: getattr(args, name) for name in _OPTIONS}
    world = World(**given, sticky=args.sticky, speeds=Speeds(kv_tokens=args.kv_tokens))
    print(
        "| policy | found | best | first token p50, s | p99, s | busiest / mean | answers/s | good/s"
        " | longest wait, s | refused |"
    )
    print("| --- |" + " ---: |" * 9)
    for name in args.only:
        result = simulate(replace(world), name)
        print(
            f"| {name} | {result.found:.1%} | {result.best:.1%} | {result.first_token_p50_s:.2f}"
            f" | {result.first_token_p99_s:.2f} | {result.busiest:.2f} | {result.answers_per_s:.2f}"
            f" | {result.good_per_s:.2f} | {result.longest_wait_s:.0f} | {result.refused} |",
            flush=True,
        )
    return 0
