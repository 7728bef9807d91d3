"""An agent that answers questions about a log file, of 100 MB or more, within a budget of tokens.

    SERVAL_API_KEY=sk-... .venv/bin/python server/examples/log_agent.py FILE "When did the errors begin?"

SERVAL_BASE_URL names the API of another server than http://127.0.0.1:8000/v1. `--summary` prints what the
agent knows of the file from the beginning, and asks no server. Page: model_adapter/LONG_CONTEXT.md.
"""

import argparse
import os
import resource
import sys
from pathlib import Path
from typing import Any

from openai import APIConnectionError, APIStatusError, OpenAI

from budgeted_loop import NoAnswerError, answered, asking
from log_tools import summary_of, text_of, tools_of

INSTRUCTIONS = """\
You answer questions about a log file, of which you know a summary. Find the lines that matter with the tools,
and answer with their numbers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("question", nargs="?", default="What went wrong, when, and why?")
    parser.add_argument(
        "--budget", type=int, default=24_000, help="tokens of the longest prompt with its answer"
    )
    parser.add_argument("--summary", action="store_true", help="only print the summary")
    args = parser.parse_args()
    try:
        summary = text_of(summary_of(args.file))
    except OSError as error:
        sys.exit(f"cannot read the log: {error}")
    if args.summary:
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(
            f"{summary}\n{used.ru_utime:.0f} s of CPU time, at most {used.ru_maxrss / 1024:.0f} MiB of memory"
        )
        return
    base_url = os.environ.get("SERVAL_BASE_URL", "http://127.0.0.1:8000/v1")
    api_key = os.environ.get("SERVAL_API_KEY")
    if not api_key:
        sys.exit("SERVAL_API_KEY is not set: export the key that `make serve` showed")
    tools = tools_of(args.file)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"{INSTRUCTIONS}\n\n{summary}"},
        {"role": "user", "content": args.question},
    ]
    try:
        client = OpenAI(base_url=base_url, api_key=api_key)
        ask = asking(client, client.models.list().data[0].id, tools)
        text, spent = answered(ask, messages, tools, budget=args.budget, report=print)
    except APIConnectionError:
        sys.exit(f"no server answers at {base_url}: start one with `make serve`, or set SERVAL_BASE_URL")
    except APIStatusError as error:
        sys.exit(f"{base_url}: {error.message}")
    except NoAnswerError as error:
        sys.exit(str(error))
    print("answer:", text)
    print(f"{spent.requests} requests, {spent.prompt:,} tokens sent, {spent.cached:,} of them in the cache")


if __name__ == "__main__":
    main()
