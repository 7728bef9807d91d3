"""Constrained calls are valid even at a high temperature. Real engine, demo model."""

import asyncio
import json
import random
import re
from typing import Any

import jsonschema
import openai
import pytest

from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.dialects.longcat import LONGCAT
from serval.schema.error import SchemaError
from serval_testkit.bounded_schemas import random_parameters

pytestmark = pytest.mark.engine

CALLS = 200
AT_ONCE = 32  # the demo engine's batch: further requests would wait, and time out after a minute
# The schemas allow about 150 tokens; only an unconstrained call could reach this.
MAX_TOKENS = 1000
WILD: dict[str, Any] = {"temperature": 1.5, "top_p": 1, "extra_body": {"top_k": -1}, "max_tokens": MAX_TOKENS}


def strict_tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}


def enforceable_schemas(count: int) -> list[dict[str, Any]]:
    """Random schemas from a fixed seed, without those that the gateway refuses with a 400."""
    rng = random.Random(0)
    found: list[dict[str, Any]] = []
    while len(found) < count:
        parameters = random_parameters(rng)
        try:
            answer_grammar(
                LONGCAT, [strict_tool(parameters)], tool_choice="required", parallel_tool_calls=False
            )
        except SchemaError:
            continue
        found.append(parameters)
    return found


async def complaint(client: openai.AsyncOpenAI, model: str, seed: int, parameters: dict[str, Any]) -> str:
    """Error in the call that the model is forced to write for `parameters`, or an empty string."""
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Call f."}],
        tools=[strict_tool(parameters)],  # type: ignore[list-item]
        tool_choice="required",
        parallel_tool_calls=False,
        seed=seed,
        **WILD,
    )
    choice = answer.choices[0]
    calls = choice.message.tool_calls or []
    seen = f"{choice.finish_reason}, {choice.message}, schema {json.dumps(parameters)}"
    if choice.finish_reason != "tool_calls" or choice.message.content or len(calls) != 1:
        return f"not one call: {seen}"
    assert calls[0].type == "function"
    try:
        arguments = json.loads(calls[0].function.arguments)
        jsonschema.Draft202012Validator(parameters).validate(arguments)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{error}: {seen}"
    return "" if calls[0].function.name == "f" else f"wrong name: {seen}"


async def test_constrained_calls_are_valid_for_200_random_schemas(server: Any) -> None:
    schemas = enforceable_schemas(CALLS)
    assert len({json.dumps(parameters) for parameters in schemas}) > 0.9 * CALLS
    gate = asyncio.Semaphore(AT_ONCE)
    async with openai.AsyncOpenAI(
        base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=600
    ) as client:
        model = (await client.models.list()).data[0].id

        async def limited(seed: int, parameters: dict[str, Any]) -> str:
            async with gate:
                return await complaint(client, model, seed, parameters)

        complaints = await asyncio.gather(*(limited(seed, schema) for seed, schema in enumerate(schemas)))
    assert len(complaints) == CALLS
    assert [text for text in complaints if text] == []


async def strict_json_choices(server: Any, schema: dict[str, Any], question: str, *, n: int) -> list[Any]:
    """Ask for `n` answers that are held to `schema`; return the choices."""
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0) as client:
        answer = await client.chat.completions.create(
            model=(await client.models.list()).data[0].id,
            messages=[{"role": "user", "content": question}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            },
            n=n,
            seed=7,
            **WILD,
        )
    return answer.choices


async def test_json_schema_response_is_valid_at_temperature_1_5(server: Any) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "scores": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0, "maximum": 9},
                "maxItems": 4,
            },
            "kind": {"enum": ["a", "b", None]},
        },
        "required": ["name", "scores", "kind"],
        "additionalProperties": False,
    }
    choices = await strict_json_choices(server, schema, "Who are you?", n=4)
    assert [choice.finish_reason for choice in choices] == ["stop"] * 4
    for choice in choices:
        jsonschema.Draft202012Validator(schema).validate(json.loads(choice.message.content or ""))


async def test_string_of_at_most_255_characters_is_served(server: Any) -> None:
    """SGLang's compiler, with its cache, refused bounds from 129 on; test_bounds.py tries many of them."""
    schema = {
        "type": "object",
        "properties": {"note": {"type": "string", "maxLength": 255}},
        "required": ["note"],
        "additionalProperties": False,
    }
    (choice,) = await strict_json_choices(server, schema, "Say: hello there", n=1)
    assert choice.finish_reason == "stop"
    jsonschema.Draft202012Validator(schema).validate(json.loads(choice.message.content or ""))


# Lines that begin with a sign, as in patches; their text is free.
PATCH = r"""
start: "BEGIN" LF line+ "END"
line: ("+" | "-") /(.*)/ LF
%import common.LF
"""


async def test_custom_tools_input_follows_its_grammar(server: Any) -> None:
    grammar: Any = {"type": "grammar", "syntax": "lark", "definition": PATCH}
    async with openai.AsyncOpenAI(
        base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=600
    ) as client:
        model = (await client.models.list()).data[0].id

        async def patch(seed: int) -> tuple[str, str]:
            answer = await client.responses.create(
                model=model,
                input="Patch it.",
                tools=[{"type": "custom", "name": "patch", "format": grammar}],
                tool_choice="required",
                parallel_tool_calls=False,
                temperature=1.5,
                top_p=1,
                max_output_tokens=150,
                extra_body={"top_k": -1, "seed": seed},
            )
            (item,) = answer.output
            assert item.type == "custom_tool_call"
            return answer.status or "", item.input

        found = await asyncio.gather(*map(patch, range(20)))
    for status, text in found:
        whole = re.compile(r"BEGIN\n([+-].*\n)+END")
        # An answer that its limit has cut is the beginning of one.
        begun = re.compile(r"B?E?G?I?N?|BEGIN\n([+-].*\n)*([+-].*)?E?N?D?")
        assert (whole if status == "completed" else begun).fullmatch(text), (status, text)
    assert len(set(found)) > 10
