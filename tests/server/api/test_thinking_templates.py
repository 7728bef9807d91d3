"""Templates of models that think: they open the reasoning themselves, or write that there is none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, running_gateway
from serval_testkit.grammar_walk import accepts, compiled
from serval_testkit.longcat_text import call
from serval_testkit.stand_in_engine import StandInEngine

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = call("f")
HI: list[Any] = [{"role": "user", "content": "Hi"}]
SWITCH = """
{%- if enable_thinking == true -%}{{- '<longcat_think>\\n' -}}
{%- elif enable_thinking == false -%}{{- '<longcat_think>\\n\\n</longcat_think>\\n' -}}{%- endif -%}
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Folder of a model that thinks."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_CHECKPOINT / name, tmp_path)
    template = (DEMO_CHECKPOINT / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").write_text(template + SWITCH)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("fields", "reasoning", "content"),
    [
        ({"enable_thinking": True}, "They greet me.", "Hello"),
        ({"thinking": {"type": "enabled"}}, "They greet me.", "Hello"),
        ({"enable_thinking": False}, None, "They greet me.\n</longcat_think>\nHello"),
        ({"reasoning_effort": "none"}, None, "They greet me.\n</longcat_think>\nHello"),
        ({}, None, "They greet me.\n</longcat_think>\nHello"),
    ],
    ids=str,
)
async def test_answer_begins_with_reasoning_if_the_template_has_opened_it(
    model: str, fields: dict[str, Any], reasoning: str | None, content: str
) -> None:
    async with running_gateway(engine=StandInEngine(model_path=model)) as gateway:
        gateway.engine.will_say("They greet me.\n</longcat_think>\nHello")
        answer = await (await gateway.post({"model": MODEL, "messages": HI, **fields})).json()
        message = answer["choices"][0]["message"]
        assert (message.get("reasoning_content"), message["content"]) == (reasoning, content)


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"tools": [TOOL], "tool_choice": "required"}, CALL),
        ({"response_format": {"type": "json_object"}}, '{"a": 1}'),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, CALL),
    ],
    ids=["calls", "JSON", "calls or JSON"],
)
async def test_grammar_begins_after_reasoning_that_the_template_has_opened(
    model: str, fields: dict[str, Any], answer: str
) -> None:
    reasoning = "They greet me: {.\n</longcat_think>\n"
    async with running_gateway(engine=StandInEngine(model_path=model)) as gateway:
        for thinking in (True, False):
            body = {"model": MODEL, "messages": HI, "enable_thinking": thinking, **fields}
            assert (await gateway.post(body)).status == 200
        grammars = [
            compiled(json.loads(request["sampling_params"]["structural_tag"]))
            for request in gateway.engine.requests
        ]
    assert [accepts(grammar, reasoning + answer) for grammar in grammars] == [True, False]
    assert [accepts(grammar, answer) for grammar in grammars] == [False, True]
    assert not accepts(grammars[0], reasoning + "Hello")


async def test_responses_effort_none_switches_thinking_off(model: str) -> None:
    async with running_gateway(engine=StandInEngine(model_path=model)) as gateway:
        for effort in ("none", "high"):
            body = {"model": MODEL, "input": "Hi", "reasoning": {"effort": effort}}
            assert (await gateway.post(body, path="/v1/responses")).status == 200
        off, default = (request["input_ids"] for request in gateway.engine.requests)
    assert off[: len(default)] == default
    assert len(off) > len(default)
