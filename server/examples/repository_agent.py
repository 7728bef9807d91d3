"""An agent that answers questions about a repository without having all of it in its prompt.

    SERVAL_API_KEY=sk-... $(deploy/setup/setup.sh --examples)/bin/python server/examples/repository_agent.py \
        FOLDER "Where is the timeout of a connection set?"

SERVAL_BASE_URL names the API of another server than http://127.0.0.1:8000/v1. The demo model knows nothing of
code: the loop works with it, its answers are not worth reading. Page: model_adapter/LONG_CONTEXT.md.
"""

import argparse
import os
import sys
from pathlib import Path

from openai import APIConnectionError, APIStatusError, OpenAI

from budgeted_loop import NoAnswerError, answered, asking
from repository_index import Index, index_of
from repository_tools import tools_of

INSTRUCTIONS = """\
You answer questions about a repository. Find the code with the tools, read it, and answer with the file and
the line. Search first; grep for exact names; read only the lines that you need."""
MOST_PATHS = 100


def beginning(index: Index) -> list[dict[str, str]]:
    """Return the messages before each question: the same for all, so that the server computes them once."""
    paths = list(index.files)
    listed = "\n".join(paths[:MOST_PATHS])
    more = f"\nand {len(paths) - MOST_PATHS:,} more" if len(paths) > MOST_PATHS else ""
    return [{"role": "system", "content": f"{INSTRUCTIONS}\n\nFiles:\n{listed}{more}"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("question")
    parser.add_argument(
        "--budget", type=int, default=24_000, help="tokens of the longest prompt with its answer"
    )
    args = parser.parse_args()
    base_url = os.environ.get("SERVAL_BASE_URL", "http://127.0.0.1:8000/v1")
    api_key = os.environ.get("SERVAL_API_KEY")
    if not api_key:
        sys.exit("SERVAL_API_KEY is not set: export the key that `make serve` showed")
    root = args.folder.resolve()
    try:
        index = index_of(root)
        client = OpenAI(base_url=base_url, api_key=api_key)
        tools = tools_of(root, index)
        ask = asking(client, client.models.list().data[0].id, tools)
        messages = [*beginning(index), {"role": "user", "content": args.question}]
        text, spent = answered(ask, messages, tools, budget=args.budget, report=print)
    except APIConnectionError:
        sys.exit(f"no server answers at {base_url}: start one with `make serve`, or set SERVAL_BASE_URL")
    except APIStatusError as error:
        sys.exit(f"{base_url}: {error.message}")
    except (NoAnswerError, ValueError) as error:
        sys.exit(str(error))
    print("answer:", text)
    print(f"{spent.requests} requests, {spent.prompt:,} tokens sent, {spent.cached:,} of them in the cache")


if __name__ == "__main__":
    main()
