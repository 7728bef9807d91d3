"""Structural tags that make the decoder write only valid calls in a dialect.

They are built from basic xgrammar 0.2.7 formats. SGLang accepts the result, as JSON text, in
`sampling_params["structural_tag"]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serval.grammar.compile_cost import Budget
from serval.grammar.dialect import Dialect
from serval.grammar.formats import BLANK, Format, sequence
from serval.grammar.schema_check import check_tools
from serval.schema.error import SchemaError


def structural_tag(
    dialect: Dialect,
    tools: Sequence[Mapping[str, Any]],
    *,
    tool_choice: str | Mapping[str, Any],
    parallel_tool_calls: bool,
    thinking: bool = False,
    exclusive: bool = False,
    budget: Budget | None = None,
) -> dict[str, Any] | None:
    """Return the tag for one request; None if the decoder is not constrained.

    `tools` and `tool_choice` ("none", "auto", "required" or a named function) are OpenAI's. "auto" is
    constrained only if a tool is strict, if calls may not be parallel, or if calls of other tools must not
    be written (`exclusive`); it leaves text before and between calls free, while "required" and a named tool
    admit only calls. Schemas are enforced, except that a tool with
    `strict: false`, or without `strict` under "auto", admits any arguments. Keywords that cannot be enforced
    are left out, unless the tool is strict. With `thinking` (the prompt has opened the think block) reasoning
    comes first. `budget`: what is left for the schemas of the request; by default a whole one.

    Raises SchemaError for a schema that is invalid, admits nothing, is too large, or is strict and cannot be
    enforced, and for names that cannot be written.
    """
    functions = [tool.get("function", tool) for tool in tools]
    if tool_choice == "none" or not functions:
        return None
    needed = exclusive or not parallel_tool_calls or any(map(_is_strict, functions))
    if tool_choice == "auto" and not needed:
        return None
    return calls_tag(
        dialect,
        tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel_tool_calls,
        thinking=thinking,
        budget=budget,
    )


def calls_tag(
    dialect: Dialect,
    tools: Sequence[Mapping[str, Any]],
    *,
    tool_choice: str | Mapping[str, Any],
    parallel_tool_calls: bool,
    thinking: bool = False,
    only_calls: bool = False,
    budget: Budget | None = None,
) -> dict[str, Any]:
    """Return the tag like `structural_tag`, but always constrain "auto": calls are at least well-formed.

    With `only_calls`, "auto" also admits only calls, and at least one.
    """
    check_tools(tools)
    functions = [tool.get("function", tool) for tool in tools]
    if isinstance(tool_choice, Mapping):
        wanted = tool_choice.get("function", tool_choice).get("name")
        functions = [function for function in functions if function.get("name") == wanted]
        if not functions:
            raise SchemaError("tool_choice", f"there is no tool {wanted!r:.80}; name one of tools")
    is_auto = tool_choice == "auto"
    budget = budget or Budget()
    tags = [
        dialect.call_tag(function, enforced=_is_enforced(function, by_default=not is_auto), budget=budget)
        for function in functions
    ]
    text_is_free = is_auto and not only_calls
    calls: Format = {
        "tags": tags,
        "at_least_one": not text_is_free,
        "stop_after_first": not parallel_tool_calls,
    }
    if text_is_free:
        calls |= {
            "type": "triggered_tags",
            "triggers": [dialect.reply.call_open],
            "excludes": list(dialect.not_in_text),
        }
    else:
        calls |= {"type": "tags_with_separator", "separator": ""}
    answer = after_reasoning(dialect, calls) if thinking else calls
    return {"type": "structural_tag", "format": answer}


def after_reasoning(dialect: Dialect, answer: Format) -> Format:
    """Return the format of `answer` after reasoning that the prompt has opened."""
    return sequence(_reasoning(dialect), BLANK, answer)


def _is_strict(function: Mapping[str, Any]) -> bool:
    return bool(function.get("strict"))


def _is_enforced(function: Mapping[str, Any], *, by_default: bool) -> bool:
    return by_default if function.get("strict") is None else _is_strict(function)


def _reasoning(dialect: Dialect) -> Format:
    return {
        "type": "tag",
        "begin": "",
        "content": {"type": "any_text", "excludes": [dialect.reply.call_open]},
        "end": dialect.reply.think_close,
    }
