"""The grammar of one answer, from its tools and its `response_format`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from serval.grammar.compile_cost import Budget
from serval.grammar.constraints import Schema
from serval.grammar.dialect import Dialect
from serval.grammar.formats import Format, json_format
from serval.grammar.schema_check import enforceable_schema
from serval.grammar.structural_tag import after_reasoning, calls_tag, structural_tag
from serval.schema.error import SchemaError

# Room for pretty-printed JSON: ten levels of four spaces. Without a bound, a sampled answer could
# consist of spaces forever.
_MAX_WHITESPACE: Final = 41


def answer_grammar(
    dialect: Dialect,
    tools: Sequence[Mapping[str, Any]],
    *,
    tool_choice: str | Mapping[str, Any],
    parallel_tool_calls: bool,
    response_format: Mapping[str, Any] | None = None,
    exclusive: bool = False,
    thinking: bool = False,
) -> str | None:
    """Return SGLang's `sampling_params["structural_tag"]` as JSON text; None if the answer is unconstrained.

    If tools may be called ("auto") and the text must be JSON, the answer is either calls or that JSON. A
    required call leaves no room for text. `exclusive`: the prompt declares other tools, which may not be
    called. `thinking`: the prompt has opened the reasoning, which comes first. The same request yields the
    same text in every process, because SGLang caches compiled grammars by their text.

    Raises SchemaError as `structural_tag` and `json_answer` do.
    """
    budget = Budget()
    text = json_answer(response_format, avoid=dialect.avoid_in_json, budget=budget)
    calls_asked = bool(tools) and tool_choice != "none"
    if text is None or (calls_asked and tool_choice != "auto"):
        tag = structural_tag(
            dialect,
            tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            exclusive=exclusive,
            thinking=thinking,
            budget=budget,
        )
        return None if tag is None else json.dumps(tag)
    if calls_asked:
        calls = calls_tag(
            dialect,
            tools,
            tool_choice="auto",
            parallel_tool_calls=parallel_tool_calls,
            only_calls=True,
            budget=budget,
        )
        text = {"type": "or", "elements": [text, calls["format"]]}
    answer = after_reasoning(dialect, text) if thinking else text
    return json.dumps({"type": "structural_tag", "format": answer})


def json_answer(response_format: Mapping[str, Any] | None, *, avoid: str, budget: Budget) -> Format | None:
    """Return the xgrammar format of OpenAI's `response_format`; None for text.

    `avoid`: characters that patterns may write only where they name them explicitly. `budget`: what is left
    for the schemas of the request.

    Raises SchemaError as `enforceable_schema` does, and for an unknown format.
    """
    kind = "text" if response_format is None else response_format.get("type")
    if response_format is None or kind == "text":
        return None
    schema: Schema = {"type": "object"}
    if kind != "json_object":
        given = response_format.get("json_schema")
        if kind != "json_schema" or not isinstance(given, Mapping):
            raise SchemaError(
                "response_format",
                f"{response_format!r:.120} is none of text, json_object, and json_schema with a schema",
            )
        path = "response_format/json_schema/schema"
        strict = given.get("strict") is True
        schema = enforceable_schema(
            given.get("schema") or {}, strict=strict, avoid=avoid, budget=budget, path=path
        )
    return json_format(schema, whitespace=_MAX_WHITESPACE, avoid=avoid)
