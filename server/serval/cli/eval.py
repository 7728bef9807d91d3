"""`serval eval`: run evaluation suites against a server, beside the paper's figures."""

import argparse
import asyncio
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import serval
from serval.agents.discovery import find_target
from serval.agents.setup import Target
from serval.evaluation.environment import harness_version, lock_digest
from serval.evaluation.error import EvaluationError
from serval.evaluation.manifest import Manifest
from serval.evaluation.runner import check, run_suite
from serval.evaluation.server_facts import ServerFacts, server_facts
from serval.evaluation.suites import Suite, suites
from serval.evaluation.trial import Server
from serval.settings import cache_folder, optional_key

_EXAMPLE = """
Installs each harness once, in a locked environment of its own, and asks the server through a recorder, which
keeps every request with its answer. The same command again goes on where the last one ended. Data sets come
from --data, a folder with each as on the hub (such as DIR/openai/gsm8k), else from the hub.

examples:
  serval eval --list
  serval eval bfcl:simple_python,irrelevance gsm8k-sample --limit 20
  serval eval gpqa math500 --url https://llm.example.com/v1 --data ~/data --temperature 0.7 --top-p 0.95
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `serval eval`."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add(
        "suites",
        nargs="*",
        metavar="SUITE",
        help=f"{', '.join(suites())}; SUITE:A,B runs its tasks A and B alone",
    )
    add("--list", action="store_true", help="show the suites with the paper's figures, and end")
    add("--url", default="http://127.0.0.1:8000/v1", help="the API's base URL (default %(default)s)")
    add("--key", help="API key (default: SERVAL_API_KEY, which other users of this machine cannot see)")
    add("--model", metavar="NAME", help="model to ask (default: the first that the server offers)")
    add("--data", type=Path, metavar="DIR", help="folder of data sets (default: the hub)")
    add("--out", type=Path, default=Path("serval-eval"), metavar="DIR", help="results (default %(default)s)")
    add("--limit", type=_positive, metavar="N", help="the first N problems of each task (default: all)")
    add("--trials", type=_positive, metavar="N", help="times to ask each problem (default: as the paper)")
    add("--temperature", type=float, default=0.0, help="the paper states none (default %(default)s)")
    add("--top-p", type=float, default=1.0, help="the paper states none (default %(default)s)")
    add("--max-tokens", type=_positive, metavar="N", help="longest answer (default: the context's end)")
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the first trial, then N + 1 (default %(default)s)",
    )
    add(
        "--concurrency",
        type=_positive,
        default=8,
        metavar="N",
        help="requests at a time (default %(default)s)",
    )
    add(
        "--patience",
        type=_positive,
        default=600,
        metavar="SECONDS",
        help="wait for a server that is overloaded or away (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the suites, one after the other. Raises `DiscoveryError`, `EvaluationError`."""
    known = suites()
    if args.list:
        print("\n".join(_row(name, suite) for name, suite in known.items()))
        return 0
    chosen = dict(_suite(text) for text in args.suites)
    if not chosen:
        raise EvaluationError(f"name a suite: {', '.join(known)}")
    # All suites are checked before the first is run, which may take days.
    data = {name: check(name, suite, args.data) for name, suite in chosen.items()}
    key = args.key or optional_key()
    target = find_target(args.url, key, model=args.model)
    server = Server(target.root_url, key, target.model, args.patience)
    facts = server_facts(args.url.rstrip("/"), key, target.model)
    for name, suite in chosen.items():
        settings = _manifest(args, name, suite, target=target, facts=facts, data=data[name])
        print(asyncio.run(_interruptible(suite, settings, server, args.out.resolve() / name)), flush=True)
    return 0


async def _interruptible(suite: Suite, settings: Manifest, server: Server, folder: Path) -> str:
    """Run a suite; SIGTERM ends it as Ctrl-C does, with the harness."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await run_suite(suite, settings, server, folder=folder, cache=cache_folder(), say=_say)
    except asyncio.CancelledError:
        raise EvaluationError(f"interrupted; run the same command again to go on in {folder}") from None


def _manifest(
    args: argparse.Namespace,
    name: str,
    suite: Suite,
    *,
    target: Target,
    facts: ServerFacts,
    data: Path | None,
) -> Manifest:
    return Manifest(
        suite=name,
        url=args.url,
        model=target.model,
        context_tokens=target.context_window,
        server_version=facts.version,
        checkpoint=facts.checkpoint,
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        seed=args.seed,
        trials=args.trials or suite.trials,
        tasks=suite.tasks,
        limit=args.limit,
        data=None if data is None else str(data.resolve()),
        harness=suite.harness,
        harness_version=harness_version(suite.harness),
        harness_lock=lock_digest(suite.harness),
        concurrency=args.concurrency,
        serval_version=serval.__version__,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _suite(text: str) -> tuple[str, Suite]:
    """Return the name and the suite of `NAME` or `NAME:TASK,TASK`."""
    name, _, tasks = text.partition(":")
    suite = suites().get(name)
    if suite is None:
        raise EvaluationError(f"there is no suite {name!r}; there are {', '.join(suites())}")
    return name, msgspec.structs.replace(suite, tasks=tuple(tasks.split(","))) if tasks else suite


def _row(name: str, suite: Suite) -> str:
    paper = "-" if suite.paper is None else f"{suite.paper:.2f}"
    harness = f"{suite.harness} (not run here)" if suite.needs else suite.harness
    return f"{name:<13} {paper:>6} {suite.paper_setting[:8]:<9} {harness:<28} {suite.title}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)
