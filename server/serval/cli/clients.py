"""`serval clients check`: score a server by recorded requests of agents and libraries."""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial

import aiohttp

from serval.agents.discovery import find_target
from serval.clients.recordings import Recording, known_clients, recordings_of
from serval.clients.replay import Reply, replay
from serval.clients.score import Verdict, judge, rows, total
from serval.settings import required_key

_TIMEOUT_S = 300
_EXAMPLE = """
Sends each recorded request as its client sent it, but with your key (SERVAL_API_KEY) and model, and checks
status, form, ids and order of the answer. The texts are filler, so the answers mean nothing. A real model may
write thousands of tokens for some requests; `--max-tokens` cuts them. Exit code 1 if an answer fails.

examples:
  serval clients check http://127.0.0.1:8000/v1
  serval clients check http://127.0.0.1:30000/v1 --client codex --client claude-code --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `serval clients`."""
    actions = parser.add_subparsers(dest="action", metavar="check", required=True)
    check = actions.add_parser(
        "check",
        help="replay recorded requests against a server",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = check.add_argument
    add("url", metavar="URL", help="the API's base URL, such as http://127.0.0.1:8000/v1")
    add("--model", metavar="NAME", help="model to ask (default: the first that the server offers)")
    add(
        "--client",
        action="append",
        choices=known_clients(),
        metavar="NAME",
        help=f"one client; repeatable (default: all): {', '.join(known_clients())}",
    )
    add("--max-tokens", type=int, metavar="N", help="limit of each answer (default: as recorded, to 32000)")
    add("--concurrency", type=int, default=4, metavar="N", help="requests at a time (default %(default)s)")
    add("--json", action="store_true", help="one JSON array of {client, request, api, faults}")


def run(args: argparse.Namespace) -> int:
    """Print the score. Raises `DiscoveryError`, and `SettingsError` without a key."""
    key = required_key()
    # The context does not matter here.
    target = find_target(args.url, key, model=args.model, context_window=1)
    send = partial(replay, root_url=target.root_url, model=target.model, key=key, max_tokens=args.max_tokens)
    show = _ignore if args.json else _print_rows
    verdicts = asyncio.run(_verdicts(args.client or known_clients(), send, args.concurrency, show))
    print(json.dumps([asdict(each) for each in verdicts], indent=2) if args.json else total(verdicts))
    return 1 if any(verdict.faults for verdict in verdicts) else 0


async def _verdicts(
    clients: Sequence[str],
    send: Callable[..., Awaitable[Reply]],
    concurrency: int,
    show: Callable[[Sequence[Verdict]], None],
) -> list[Verdict]:
    """Replay the requests of all clients; `show` gets each client's verdicts, in order, once all are in."""
    places = asyncio.Semaphore(concurrency)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    verdicts: list[Verdict] = []
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:

        async def verdict(client: str, recording: Recording) -> Verdict:
            async with places:
                return judge(client, recording, await send(session, recording=recording))

        started = [
            [group.create_task(verdict(client, each)) for each in recordings_of(client)] for client in clients
        ]
        for tasks in started:
            found = [await task for task in tasks]
            show(found)
            verdicts += found
    return verdicts


def _print_rows(verdicts: Sequence[Verdict]) -> None:
    print("\n".join(rows(verdicts)), flush=True)


def _ignore(_: Sequence[Verdict]) -> None:
    """Show nothing: the JSON array comes at the end."""
