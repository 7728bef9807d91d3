"""Count right drafts of a demo checkpoint's MTP layer: `python -m serval_sglang.demo.acceptance [DIRECTORY]`.

The prompts are the documented questions and calls. The reference counts, without any cache, so an engine that
drafts as the checkpoint defines has the same counts, request by request.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from serval_sglang.checkpoint import load_mtp_layer, load_reference
from serval_sglang.demo import checkpoint_directory, small_talk
from serval_sglang.demo.rendering import render_messages
from serval_sglang.demo.tool_catalogue import Json, tool_declaration
from serval_sglang.reference import SpeculativeRun, decode_speculatively, mtp_drafter

MAX_TOKENS = 160


def _tool(name: str, description: str, required: str, **types: str) -> Json:
    properties = {key: {"type": value} for key, value in types.items()}
    parameters = {"type": "object", "properties": properties, "required": [required]}
    return tool_declaration(name, description, parameters)


TOOLS = (
    _tool("get_weather", "Get the weather forecast for a city.", "city", city="string", days="integer"),
    _tool("get_time", "Get the current time in a city.", "city", city="string"),
    _tool("calculate", "Evaluate an arithmetic expression.", "expression", expression="string"),
    _tool("search_docs", "Search the documentation.", "query", query="string", limit="integer"),
)
_CALLS = (
    "What's the weather in Paris for 3 days?",
    "Compare the weather in Paris and Rome for the next two days",
    "What time is it in Tokyo?",
    "What is 12 * 34?",
    "Calculate 5 plus 6",
    "Search the docs for rate limits, 5 results",
)


class Prompt(NamedTuple):
    """A documented question, as the chat template writes it."""

    kind: str  # "question" or "call"
    question: str
    text: str


def documented_prompts() -> Iterator[Prompt]:
    """Yield the first wording of each documented question, and a question for each kind of call."""
    for fact in small_talk.FACTS:
        question = fact.questions[0]
        yield Prompt("question", question, render_messages([_user(question)], prompt=True))
    for question in _CALLS:
        yield Prompt("call", question, render_messages([_user(question)], tools=TOOLS, prompt=True))


def count_drafts(directory: Path, prompts: Sequence[Prompt], *, steps: int) -> Iterator[SpeculativeRun]:
    """Yield the greedy answer to each prompt, with the verify passes that it takes."""
    model, layer = load_reference(directory), load_mtp_layer(directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    drafter = mtp_drafter(model, layer, steps=steps)
    for prompt in prompts:
        tokens: list[int] = tokenizer.encode(prompt.text).ids
        yield decode_speculatively(model, tokens, drafter, steps=steps, max_new_tokens=MAX_TOKENS)


def summary(runs: Sequence[SpeculativeRun]) -> str:
    """Return one line: tokens, verify passes, tokens a pass, and the share of right drafts by position."""
    tokens, passes = sum(len(run.tokens) for run in runs), sum(run.passes for run in runs)
    positions = [sum(counts) for counts in zip(*(run.right_by_position for run in runs), strict=True)]
    shares = " ".join(f"{count / max(passes, 1):6.1%}" for count in positions)
    # The prefill gives the first token of each answer.
    rate = (tokens - len(runs)) / max(passes, 1)
    return f"{tokens:7} {passes:7} {sum(positions):7} {rate:12.2f}   {shares}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serval_sglang.demo.acceptance", description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=checkpoint_directory())
    parser.add_argument(
        "--steps", type=int, default=3, choices=(1, 2, 3), help="drafts a pass (default: %(default)s)"
    )
    parser.add_argument("--each", action="store_true", help="print a line for each question, too")
    options = parser.parse_args(arguments)
    prompts = list(documented_prompts())
    found: dict[str, list[SpeculativeRun]] = {}
    header = f"{'tokens':>7} {'passes':>7} {'right':>7} {'tokens/pass':>12}   right by position"
    print(f"{'':28} {header}")
    for prompt, run in zip(
        prompts, count_drafts(options.directory, prompts, steps=options.steps), strict=True
    ):
        found.setdefault(prompt.kind, []).append(run)
        if options.each:
            print(f"{prompt.question[:28]:28} {summary([run])}", flush=True)
    for kind, runs in found.items():
        print(f"{f'{len(runs)} documented {kind}s':28} {summary(runs)}")
    return 0


def _user(text: str) -> Json:
    return {"role": "user", "content": text}


if __name__ == "__main__":
    sys.exit(main())
