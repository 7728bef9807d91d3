"""Compare admission of whole conversations with other policies, on gateways before four engine stand-ins.

More conversations are in use than the engines' KV caches hold. `placement --population` simulates the same,
with lengths times eight and times times four.
"""

import argparse
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from serval_load.client import Peer
from serval_load.programs import running_gateway, running_stand_in
from serval_load.progress import log
from serval_load.workloads.population import Outcome, Population, figures_of, live

_EXAMPLE = """
example:
  python -m serval_load conversations
  python -m serval_load conversations --only whole --agents 100 --seconds 300
"""
# The simulation's engine, with lengths of an eighth and times of a quarter.
_ENGINE = (
    "--prefill-base-s=0.0025",
    "--prefill-token-s=0.0001",
    "--decode-base-s=0.03",
    "--decode-request-s=0.0004",
)
_OPTIONS = ("agents", "keys", "seconds", "think_s", "seed")


@dataclass(frozen=True)
class _Policy:
    title: str
    whole: bool = False
    # A gateway for each engine, and a fixed one for each conversation.
    fixed: bool = False
    one_key: bool = False


_POLICIES = {
    "first": _Policy("first come first served", one_key=True),
    "fair": _Policy("fair queue of keys"),
    "hash": _Policy("hash that never moves", fixed=True),
    "whole": _Policy("conversations whole", whole=True),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    population = Population()
    parser.add_argument("--only", nargs="+", choices=_POLICIES, default=list(_POLICIES), help="policies")
    for name in _OPTIONS:
        default = getattr(population, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--engines", type=int, default=4, help="stand-ins (default 4)")
    parser.add_argument("--kv-tokens", type=int, default=37_500, help="KV cache of each (default 37500)")
    parser.add_argument("--bound-s", type=float, default=75.0, help="longest wait (default 75)")
    parser.add_argument(
        "--good-s", type=float, default=1.25, help="first token of a good answer (default 1.25)"
    )


def run(args: argparse.Namespace) -> int:
    """Run each policy and print the table; return 1 if a request failed."""
    population = Population(**{name: getattr(args, name) for name in _OPTIONS})
    print(
        "| policy | found | best | first token p50, s | p99, s | answers/s | good/s | longest wait, s"
        " | refused |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    failed = 0
    for name in args.only:
        log(f"{_POLICIES[name].title}: {population.seconds:g} s")
        outcome = uvloop.run(_outcome(args, population, _POLICIES[name]))
        failed += outcome.failed
        figures = figures_of(outcome, good_s=args.good_s)
        print(
            f"| {_POLICIES[name].title} | {figures.found:.1%} | {figures.best:.1%}"
            f" | {figures.first_token_p50_s:.2f} | {figures.first_token_p99_s:.2f}"
            f" | {figures.answers_per_s:.2f} | {figures.good_per_s:.2f}"
            f" | {outcome.longest_s:.0f} | {outcome.refused} |",
            flush=True,
        )
    return int(failed > 0)


async def _outcome(args: argparse.Namespace, population: Population, policy: _Policy) -> Outcome:
    async with AsyncExitStack() as stack:
        engines = []
        for _ in range(args.engines):
            stand_in = running_stand_in(*_ENGINE, f"--kv-tokens={args.kv_tokens}")
            engines.append((await stack.enter_async_context(stand_in))[1])
        keys = [f"sk-conversations-of-agents-{number:04d}" for number in range(population.keys)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serval-conversations-")))
        (folder / "keys").write_text("\n".join(keys))
        environment = {
            "SERVAL_API_KEY_FILE": str(folder / "keys"),
            "SERVAL_WORKING_SET": "0.8" if policy.whole else "0",
            "SERVAL_QUEUE_TIMEOUT_S": str(args.bound_s),
        }
        urls = []
        for behind in engines if policy.fixed else [",".join(engines)]:
            gateway = running_gateway(behind, environment=environment)
            urls.append((await stack.enter_async_context(gateway))[1])
        used = [keys[0]] * len(keys) if policy.one_key else keys
        return await live(population, [[Peer.of(url, key) for url in urls] for key in used])
