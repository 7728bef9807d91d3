"""Tokens that the agent sends and finds in the cache, beside a prompt with the whole repository in it.

    SERVAL_API_KEY=sk-... $(deploy/setup/setup.sh --examples)/bin/python server/examples/repository_figures.py

The repository is the source of the installed package httpx2. The server counts all tokens, and says how many
it found in its cache. The calls are scripted, because the demo model cannot make them: search for the
question's words, read the three best parts, grep for what the best one defines, answer.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openai import OpenAI

from budgeted_loop import Ask, Spent, answered, asking
from repository_agent import INSTRUCTIONS, beginning
from repository_index import index_of
from repository_tools import tools_of

PACKAGE = "httpx2"
# Questions, each with the file that answers it.
QUESTIONS = {
    "Which status codes change the method of a redirected request to GET?": "_client.py",
    "How is the boundary of a multipart form made?": "_multipart.py",
    "Where are credentials of HTTP digest authentication computed?": "_auth.py",
    "Which environment variables choose a proxy?": "_utils.py",
    "How does a response decode brotli and gzip content?": "_decoders.py",
    "Which errors does an exceeded timeout raise?": "_exceptions.py",
    "How does the client call an ASGI application without a network?": "asgi.py",
    "How are the query parameters of a URL merged and encoded?": "_urls.py",
}
PLACE = re.compile(r"^(\S+):(\d+)-(\d+)(?: \((\w+))?", re.MULTILINE)


def scripted(ask: Ask, calls: Iterator[tuple[str, dict[str, Any]]]) -> Ask:
    """Return what sends each conversation to the server, and puts the next call in place of its answer."""

    def asked(messages: Sequence[Mapping[str, Any]]) -> Any:
        usage = ask(messages).usage
        name, arguments = next(calls, ("", {}))
        message = SimpleNamespace(content="", tool_calls=None)
        if name:
            function = {"name": name, "arguments": json.dumps(arguments)}
            call = {"id": f"call_{len(messages)}", "type": "function", "function": function}
            message.tool_calls = [SimpleNamespace(id=call["id"], function=SimpleNamespace(**function))]
            message.model_dump = lambda **_: {"role": "assistant", "content": "", "tool_calls": [call]}
        return SimpleNamespace(usage=usage, choices=[SimpleNamespace(message=message)])

    return asked


def calls_of(question: str, messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the calls, made from the results that `messages` have received until then."""
    yield "search", {"query": question}
    places = PLACE.findall(messages[-1]["content"])
    for path, begin, end, _ in places[:3]:
        yield "read", {"path": path, "begin": int(begin), "end": int(end)}
    name = next((name for *_, name in places if name), None)
    if name:
        yield "grep", {"pattern": rf"\b{name}\b"}


def stuffed(root: Path) -> list[dict[str, str]]:
    """Return the messages before a question, with all source files in them."""
    files = [f"{path.relative_to(root)}\n{path.read_text()}" for path in sorted(root.rglob("*.py"))]
    return [{"role": "system", "content": "\n\n".join([INSTRUCTIONS, *files])}]


def row(what: str, spent: Sequence[Spent]) -> str:
    """Return the row of a table for these questions together."""
    requests, prompt, cached = (
        sum(getattr(s, name) for s in spent) for name in ("requests", "prompt", "cached")
    )
    longest = max(one.longest for one in spent)
    return f"| {what} | {requests} | {prompt:,} | {cached / prompt:.0%} | {prompt - cached:,} | {longest:,} |"


def measured(root: Path, client: OpenAI, report: Callable[[str], None]) -> None:
    """Ask all questions in both ways, and print the table."""
    index = index_of(root)
    tools = tools_of(root, index)
    model = client.models.list().data[0].id
    ask = asking(client, model, tools, answer_tokens=1)
    of_agent, of_whole, found, read = [], [], 0, 0
    for question, path in QUESTIONS.items():
        messages: list[dict[str, Any]] = [*beginning(index), {"role": "user", "content": question}]
        _, spent = answered(scripted(ask, calls_of(question, messages)), messages, tools, budget=24_000)
        of_agent.append(spent)
        hits = [hit for hit, *_ in PLACE.findall(messages[3]["content"])]
        found += any(hit.endswith(path) for hit in hits)
        read += any(hit.endswith(path) for hit in hits[:3])
    ask = asking(client, model, [], answer_tokens=1)
    before = stuffed(root)
    for question in QUESTIONS:
        _, spent = answered(ask, [*before, {"role": "user", "content": question}], [], budget=1 << 30)
        of_whole.append(spent)
    size = sum(path.stat().st_size for path in root.rglob("*.py"))
    report(f"{PACKAGE}: {len(index.files)} files, {size:,} bytes; model {model}")
    report(f"the file that answers: found for {found} of {len(QUESTIONS)} questions, read for {read}\n")
    report("| | requests | tokens sent | in the cache | computed | longest prompt |")
    report("| --- | ---: | ---: | ---: | ---: | ---: |")
    for what, spents in (("agent", of_agent), ("everything in the prompt", of_whole)):
        report(row(f"{what}, first question", spents[:1]))
        report(row(f"{what}, {len(QUESTIONS)} questions", spents))


def main() -> None:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(
            f"{PACKAGE} is not installed: run this with the Python of `deploy/setup/setup.sh --examples`"
        )
    api_key = os.environ.get("SERVAL_API_KEY")
    if not api_key:
        sys.exit("SERVAL_API_KEY is not set: export the key that `make serve` showed")
    base_url = os.environ.get("SERVAL_BASE_URL", "http://127.0.0.1:8000/v1")
    measured(Path(spec.origin).parent.resolve(), OpenAI(base_url=base_url, api_key=api_key), print)


if __name__ == "__main__":
    main()
