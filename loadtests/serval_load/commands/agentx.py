"""`load agentx`: agents in a closed loop, on generated sessions or a given trace."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from serval.workload_files import Conversation, cut, read_conversations, write_conversations
from serval.workload_files.lengths import DEFAULT_OUTPUT_TOKENS
from serval_load.client import Peer
from serval_load.machine import describe
from serval_load.progress import log
from serval_load.report.agents import AgentSummary, agents_picture, agents_table, summarise_agents
from serval_load.report.page import html_page
from serval_load.report.sections import replace_section
from serval_load.workloads.agents import Pace, drive_agents, with_pauses
from serval_load.workloads.driver import Request
from serval_load.workloads.session_shapes import Shape, sessions

# Sessions of a run without --conversations, for each agent.
_SESSIONS_PER_AGENT = 3
_NOTE = (
    "A user's tokens a second are the median over answers, after the first token; a place's are those of all"
    " answers, or of all answers and prompts, divided by the number of places."
)
Runs = Sequence[tuple[AgentSummary, list[Request]]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only `agentx` has."""
    shape = Shape()
    add = parser.add_argument_group("agentx").add_argument
    add(
        "--concurrency",
        type=int,
        nargs="+",
        default=[1],
        metavar="N",
        help="agents at a time, one run for each",
    )
    add(
        "--conversations",
        type=int,
        metavar="N",
        help="sessions of a run (default 3 for each agent; all of --trace)",
    )
    add("--places", type=int, default=1, metavar="N", help="engines or GPUs behind the URL (default 1)")
    add("--pause-scale", type=float, default=1.0, metavar="FACTOR", help="of the pauses of tools and users")
    add(
        "--longest-pause", type=float, default=60.0, metavar="SECONDS", help="no pause is longer (default 60)"
    )
    add(
        "--ramp",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="agents begin evenly over so long (default 0)",
    )
    add("--most-turns", type=int, metavar="N", help="cut sessions after so many turns")
    add(
        "--context",
        type=int,
        default=shape.context,
        metavar="TOKENS",
        help="longest prompt and answer generated",
    )
    add("--scale", type=float, default=1.0, metavar="FACTOR", help="of all generated lengths")
    share = shape.subagent_share
    add(
        "--subagents",
        type=float,
        default=share,
        metavar="SHARE",
        help=f"sessions with subagents (default {share:g})",
    )
    add(
        "--output-tokens",
        type=int,
        default=DEFAULT_OUTPUT_TOKENS,
        metavar="TOKENS",
        help=f"answers for which the trace says no length (default {DEFAULT_OUTPUT_TOKENS}, as SGLang's)",
    )
    add("--extra-body", type=json.loads, default={}, metavar="JSON", help='more fields: {"ignore_eos": true}')
    add(
        "--save-trace",
        type=Path,
        metavar="FILE",
        help="write the sessions of the last run, which SGLang replays too",
    )
    add("--no-requests", action="store_true", help="only draw sessions, for --save-trace")


def draw_each(args: argparse.Namespace) -> list[list[Conversation]]:
    """The sessions for each number of agents, of which `--save-trace` keeps the last.

    Raises `SystemExit` if they cannot be drawn or read.
    """
    try:
        drawn = [
            with_pauses(
                _conversations(args, agents, seed=args.seed * 1000 + number),
                scale=args.pause_scale,
                longest_s=args.longest_pause,
            )
            for number, agents in enumerate(args.concurrency)
        ]
    except (OSError, ValueError) as error:
        raise SystemExit(f"load agentx: error: {error}") from None
    if args.save_trace:
        metadata = {"source": "python -m serval_load load agentx", "seed": args.seed}
        write_conversations(args.save_trace, drawn[-1], metadata=metadata)
    return drawn


async def drive_each(args: argparse.Namespace, drawn: Sequence[Sequence[Conversation]], peer: Peer) -> Runs:
    """Run the agents once for each number of them."""
    runs = []
    for number, (agents, conversations) in enumerate(zip(args.concurrency, drawn, strict=True)):
        log(f"agentx: {agents} agents, {sum(one.after is None for one in conversations)} sessions")
        requests = await drive_agents(
            peer,
            conversations,
            agents=agents,
            body={"model": args.model, **args.extra_body},
            output_tokens=args.output_tokens,
            pace=Pace(args.ramp, math.inf if args.seconds is None else args.seconds),
            # Generated texts differ between runs. Those of a file are made to, or the cache would hold them.
            mark=f"Run {number}. " if args.trace and number else "",
            log=log,
        )
        runs.append((summarise_agents(requests, agents=agents, places=args.places), requests))
    return runs


def report(args: argparse.Namespace, runs: Runs) -> int:
    """Print the table and write the files; return 1 if a request failed."""
    summaries = [summary for summary, _ in runs]
    machine = describe()
    print(agents_table(summaries), end="")
    if args.svg:
        args.svg.write_text(agents_picture(summaries))
    if args.into:
        figures = f"{machine}\n\n{agents_table(summaries)}"
        args.into.write_text(replace_section(args.into.read_text(), "load-agentx", figures))
    if args.out:
        title = f"agentx, {machine}"
        told = {
            "title": title,
            "summaries": [one.as_object() for one in summaries],
            "requests": [asdict(one) for one in runs[-1][1]],
        }
        args.out.with_suffix(".json").write_text(json.dumps(told) + "\n")
        args.out.with_suffix(".svg").write_text(agents_picture(summaries))
        whole = html_page(
            agents_table(summaries),
            agents_picture(summaries),
            title=title,
            note=_NOTE,
            errors=[one.errors for one in summaries],
        )
        args.out.with_suffix(".html").write_text(whole)
    return int(any(one.failed for one in summaries))


def _conversations(args: argparse.Namespace, agents: int, *, seed: int) -> list[Conversation]:
    if args.trace:
        found = read_conversations(args.trace)
        return cut(found, count=args.conversations or len(found), turns=args.most_turns or math.inf)
    shape = Shape(context=round(args.context / args.scale), subagent_share=args.subagents).scaled(args.scale)
    if args.most_turns:
        shape = replace(shape, most_turns=args.most_turns)
    return sessions(shape, args.conversations or _SESSIONS_PER_AGENT * agents, seed=seed)
