"""Rules of model_adapter/LONG_CONTEXT.md for prompts that stay cached, by `serval chat render --diff`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from serval.chat import ChatRenderer, load_chat
from serval.cli.prompt_diff import compared
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.repository import ROOT

DOCUMENT = "A line of the document. " * 60
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("search", "read", "grep")
]


@pytest.fixture(scope="module")
def renderer() -> ChatRenderer:
    return load_chat(DEMO_CHECKPOINT)


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def asking(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), "tools": TOOLS, **more}


def reordered() -> list[dict[str, Any]]:
    """The same declarations, each with its name behind its parameters."""
    return [
        {"type": "function", "function": {key: tool["function"][key] for key in ("parameters", "name")}}  # type: ignore[index]
        for tool in TOOLS
    ]


FIRST = asking(system(DOCUMENT), user("What is it about?"))
ANSWERED = [*FIRST["messages"], {"role": "assistant", "content": "Lines."}]
KEEPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "question behind the documents": (FIRST, asking(system(DOCUMENT), user("Who wrote it?"))),
    "time in the question": (FIRST, asking(system(DOCUMENT), user("Today is Monday. What is it about?"))),
    "next turn": (FIRST, asking(*ANSWERED, user("And who wrote it?"))),
    "tool that must be called": (FIRST, FIRST | {"tool_choice": "required"}),
    "some tools allowed": (
        FIRST,
        FIRST
        | {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "read"}}],
                },
            }
        },
    ),
    "keys of a declaration in another order": (FIRST, FIRST | {"tools": reordered()}),
}
LOSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "question before the documents": (
        asking(system("Answer."), user(f"What is it about? {DOCUMENT}")),
        asking(system("Answer."), user(f"Who wrote it? {DOCUMENT}")),
    ),
    "time in the instructions": (
        asking(system(f"It is 10:00. {DOCUMENT}"), user("What is it about?")),
        asking(system(f"It is 10:01. {DOCUMENT}"), user("What is it about?")),
    ),
    "tools in another order": (FIRST, FIRST | {"tools": TOOLS[::-1]}),
    "a tool less": (FIRST, FIRST | {"tools": TOOLS[1:]}),
    "no tool may be called": (FIRST, FIRST | {"tool_choice": "none"}),
    "an earlier message changed": (
        asking(user(DOCUMENT), *ANSWERED[2:], user("Go on.")),
        asking(user(f"(removed) {DOCUMENT[24:]}"), *ANSWERED[2:], user("Go on.")),
    ),
}


def test_page_has_each_rule_and_what_it_does() -> None:
    page = (ROOT / "model_adapter/LONG_CONTEXT.md").read_text()
    rows = re.findall(r"^\| (.*) \| (in the cache|computed again) \|$", page, re.MULTILINE)
    assert rows == [
        *((rule, "in the cache") for rule in KEEPS),
        *((rule, "computed again") for rule in LOSES),
    ]


def share(renderer: ChatRenderer, folder: Path, pair: tuple[dict[str, Any], dict[str, Any]]) -> float:
    """Return the share of the second prompt that the cache has after the first, as the command says it."""
    paths = [folder / "first.json", folder / "second.json"]
    for path, body in zip(paths, pair, strict=True):
        path.write_text(json.dumps(body))
    found = re.match(r"(\d+) of (\d+) tokens", compared(renderer, *paths))
    assert found is not None
    return int(found[1]) / int(found[2])


@pytest.mark.parametrize("rule", KEEPS)
def test_prompt_laid_out_by_the_rules_stays_in_the_cache(
    renderer: ChatRenderer, tmp_path: Path, rule: str
) -> None:
    assert share(renderer, tmp_path, KEEPS[rule]) > 0.9


@pytest.mark.parametrize("rule", LOSES)
def test_prompt_that_breaks_a_rule_is_computed_again(
    renderer: ChatRenderer, tmp_path: Path, rule: str
) -> None:
    assert share(renderer, tmp_path, LOSES[rule]) < 0.4
