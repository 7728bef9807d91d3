"""Prompt and grammar of a conversation, which `serval.wire` has checked."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from serval.api.context import ApiContext
from serval.api.preparation import beyond_context
from serval.api.shortening import Shorten
from serval.chat.long_text import TokenLimitError
from serval.chat.prompt_parts import PromptParts
from serval.chat.render import ChatRenderer, RenderedPrompt
from serval.errors import InvalidRequestError
from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.dialect import Dialect
from serval.schema.error import SchemaError
from serval.wire.chat_request import ChatRequest, Tool
from serval.wire.thinking import template_options


class Prompt(Struct, frozen=True):
    """Input of the model, and the grammar that constrains its output."""

    input_ids: "array[int]"
    # Every tool that the model may call.
    tools: Sequence[Mapping[str, Any]]
    grammar: str | None
    # The answer is either calls or one text, which may quote a call.
    one_kind: bool
    # The prompt ends where the model's reasoning begins.
    thinking: bool
    # Structure of the prompt, for the choice of an engine.
    parts: PromptParts | None


def prompt_of(
    request: ChatRequest,
    context: ApiContext,
    *,
    caller: str,
    grammar: str | None,
    deferred_tools: Sequence[Tool] = (),
    beginning: "array[int] | None" = None,
    shorten: Shorten | None = None,
) -> Prompt:
    """Return the prompt of the request, whose messages are then empty.

    `caller`: whose turns may be rendered with the model's own tokens. `grammar` is the request's own;
    `deferred_tools` may be called too, but are not declared at the beginning. `beginning`: see
    `ChatRenderer.render`; `shorten`: see `rendered_conversation`.
    Raises `ContextLengthError`, and `InvalidRequestError` as `grammar_of` does.
    """
    declared = declared_tools(request)
    deferred: list[dict[str, Any]] = []
    if deferred_tools and request.tool_choice != "none":
        deferred = msgspec.to_builtins(deferred_tools)
    tools = [*declared, *deferred]
    rendered = rendered_conversation(
        request,
        declared,
        context,
        caller=caller,
        deferred=deferred,
        limit=context.model.max_prompt_tokens,
        beginning=beginning,
        shorten=shorten,
    )
    # The engine may take minutes for the answer, and waiting requests would hold many conversations.
    request.messages.clear()
    wants_json = request.response_format is not None and request.response_format.type != "text"
    thinking = _opens_reasoning(rendered.input_ids, context)
    return Prompt(
        array("I", rendered.input_ids),
        tools,
        grammar or grammar_of(request, tools, context.dialect, thinking=thinking),
        one_kind=grammar is not None or wants_json,
        thinking=thinking,
        parts=rendered.parts,
    )


def _opens_reasoning(input_ids: Sequence[int], context: ApiContext) -> bool:
    """Return True if the template has opened the reasoning; at most white space follows."""
    reply, tokenizer = context.dialect.reply, context.chat.tokenizer
    end = list(input_ids[-8:])
    opening = tokenizer.control_id(reply.think_open)
    if opening not in end:
        return False
    # To switch thinking off, templates may write reasoning that is empty. A turn before may have had some.
    behind = end[::-1][: end[::-1].index(opening)]
    return tokenizer.control_id(reply.think_close) not in behind


def declared_tools(request: ChatRequest) -> list[dict[str, Any]]:
    """Return the tools declared to the model: none if the tool choice is 'none'."""
    if not request.tools or request.tool_choice == "none":
        return []
    tools: list[dict[str, Any]] = msgspec.to_builtins(request.tools)
    return tools


def declaration_of(renderer: ChatRenderer, tool: Tool) -> str:
    """Return the text that declares a tool where the conversation loads it."""
    declared: dict[str, Any] = msgspec.to_builtins(tool)
    return renderer.declarations.text_of(declared)


def rendered_conversation(
    request: ChatRequest,
    tools: Sequence[Mapping[str, Any]],
    context: ApiContext,
    *,
    caller: str,
    limit: int,
    deferred: Sequence[Mapping[str, Any]] = (),
    beginning: "array[int] | None" = None,
    shorten: Shorten | None = None,
) -> RenderedPrompt:
    """Return the prompt of the conversation, which declares `tools` but not the `deferred` ones.

    `shorten` makes it of as many messages as fit, unless it has a `beginning`, whose tokens stay whole.
    Raises `ContextLengthError` if it has more than `limit` tokens.
    """

    def render(messages: Sequence[Mapping[str, Any]], most: int) -> RenderedPrompt:
        return context.chat.render(
            messages,
            tools=tools,
            options=template_options(request, context.chat.template_variables),
            continued=bool(request.continue_final_message),
            own_turns=context.own_turns.find(caller, messages, [*tools, *deferred]),
            beginning=beginning,
            limit=most,
        )

    messages: list[dict[str, Any]] = msgspec.to_builtins(request.messages)
    try:
        if shorten is not None and beginning is None:
            return shorten(messages, render, limit)
        return render(messages, limit)
    except TokenLimitError:
        raise beyond_context(context.model, tokens=limit, param="messages") from None


def grammar_of(
    request: ChatRequest, tools: Sequence[Mapping[str, Any]], dialect: Dialect, *, thinking: bool = False
) -> str | None:
    """Return the grammar of the requested calls or JSON, as JSON text; None if the answer is unconstrained.

    `thinking`: the prompt has opened the reasoning, which comes first and is free.
    Raises `InvalidRequestError`, naming the place, for a schema that cannot be enforced as requested.
    """
    if not tools and request.response_format is None:
        return None
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
            thinking=thinking,
        )
    except SchemaError as error:
        param = "response_format" if error.path.startswith("response_format") else "tools"
        raise InvalidRequestError(f"Invalid schema in '{param}': {error}", param=param) from error
