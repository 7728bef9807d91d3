"""Prompt and grammar of a conversation, which `serval.wire` has checked."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from serval.api.context import ApiContext
from serval.api.preparation import within_context
from serval.chat.prompt_parts import PromptParts
from serval.chat.render import RenderedPrompt
from serval.errors import InvalidRequestError
from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.dialect import Dialect
from serval.schema.error import SchemaError
from serval.wire.chat_request import ChatRequest, Tool


class Prompt(Struct, frozen=True):
    """Input of the model, and the grammar that constrains its output."""

    input_ids: "array[int]"
    # Every tool that the model may call.
    tools: Sequence[Mapping[str, Any]]
    grammar: str | None
    # The answer is either calls or one text, which may quote a call.
    one_kind: bool
    # Structure of the prompt, for the choice of an engine.
    parts: PromptParts | None = None


def prompt_of(
    request: ChatRequest, context: ApiContext, *, grammar: str | None, deferred_tools: Sequence[Tool] = ()
) -> Prompt:
    """Return the prompt of the request, whose messages are then empty.

    `grammar` is the request's own; `deferred_tools` may be called too, but are not declared at the beginning.
    Raises `ContextLengthError`, and `InvalidRequestError` as `grammar_of` does.
    """
    declared = declared_tools(request)
    rendered = rendered_conversation(request, declared, context, limit=context.model.max_prompt_tokens)
    # The engine may take minutes for the answer, and waiting requests would hold many conversations.
    request.messages.clear()
    tools = declared
    if deferred_tools and request.tool_choice != "none":
        tools = [*declared, *msgspec.to_builtins(deferred_tools)]
    wants_json = request.response_format is not None and request.response_format.type != "text"
    return Prompt(
        array("I", rendered.input_ids),
        tools,
        grammar or grammar_of(request, tools, context.dialect),
        one_kind=grammar is not None or wants_json,
        parts=rendered.parts,
    )


def declared_tools(request: ChatRequest) -> list[dict[str, Any]]:
    """Return the tools declared to the model: none if the tool choice is 'none'."""
    if not request.tools or request.tool_choice == "none":
        return []
    tools: list[dict[str, Any]] = msgspec.to_builtins(request.tools)
    return tools


def rendered_conversation(
    request: ChatRequest, tools: Sequence[Mapping[str, Any]], context: ApiContext, *, limit: int
) -> RenderedPrompt:
    """Return the conversation's prompt. Raises `ContextLengthError` if it is longer than `limit` tokens."""
    with within_context(context.model, tokens=limit, param="messages"):
        return context.chat.render(
            msgspec.to_builtins(request.messages),
            tools=tools,
            options=request.chat_template_kwargs,
            continued=bool(request.continue_final_message),
            limit=limit,
        )


def grammar_of(request: ChatRequest, tools: Sequence[Mapping[str, Any]], dialect: Dialect) -> str | None:
    """Return the grammar of the requested calls or JSON, as JSON text; None if the answer is unconstrained.

    Raises `InvalidRequestError`, naming the place, for a schema that cannot be enforced as requested.
    """
    choice: Any = msgspec.to_builtins(request.tool_choice or "auto")
    allowed = choice.get("allowed_tools") if isinstance(choice, dict) else None
    if allowed is not None:
        names = {tool["function"]["name"] for tool in allowed["tools"]}
        tools = [tool for tool in tools if tool["function"]["name"] in names]
        choice = allowed["mode"]
    try:
        return answer_grammar(
            dialect,
            tools,
            tool_choice=choice,
            parallel_tool_calls=request.parallel_tool_calls is not False,
            response_format=msgspec.to_builtins(request.response_format),
            exclusive=allowed is not None,
        )
    except SchemaError as error:
        param = "response_format" if error.path.startswith("response_format") else "tools"
        raise InvalidRequestError(f"Invalid schema in '{param}': {error}", param=param) from error
