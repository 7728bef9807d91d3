"""Decoding and checking the bodies of the Messages API, to requests of Chat Completions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from serval.chat.tool_clearing import ClearToolUses
from serval.errors import InvalidRequestError
from serval.wire.body_size import check_body_size
from serval.wire.chat_request import (
    ChatRequest,
    JsonSchemaFormat,
    ResponseFormat,
    Tool,
    check_schema,
)
from serval.wire.decode import decode_json, invalid_value, missing_parameter
from serval.wire.foreign_fields import check_messages_fields
from serval.wire.messages.context_edits import clear_tool_uses
from serval.wire.messages.conversation import chat_messages, system_messages
from serval.wire.messages.request import CountTokensRequest, MessagesRequest
from serval.wire.messages.tools import Tools, chat_tool_choice, chat_tools
from serval.wire.omitted_parts import NonTextParts
from serval.wire.sampling_rules import check_stop

# Text that declares a tool in the form of the model's template.
DeclarationOf = Callable[[Tool], str]


class Reading(Struct, frozen=True):
    """Ways to read a request: the settings of the same names, and the form of a tool's declaration."""

    strict_fields: bool
    non_text_parts: NonTextParts
    render_billing_block: bool
    declaration_of: DeclarationOf


# Names of fields by their names in Chat Completions, for errors found after decoding.
FIELDS: Final[Mapping[str, str]] = {
    "response_format": "output_config.format",
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
}


class _StrictMessagesRequest(MessagesRequest, forbid_unknown_fields=True):
    """The request for servers that refuse unknown fields."""


class _StrictCountTokensRequest(CountTokensRequest, forbid_unknown_fields=True):
    """The same for counting."""


_messages: "msgspec.json.Decoder[MessagesRequest]" = msgspec.json.Decoder(MessagesRequest)
_strict_messages: "msgspec.json.Decoder[MessagesRequest]" = msgspec.json.Decoder(_StrictMessagesRequest)
_count: "msgspec.json.Decoder[CountTokensRequest]" = msgspec.json.Decoder(CountTokensRequest)
_strict_count: "msgspec.json.Decoder[CountTokensRequest]" = msgspec.json.Decoder(_StrictCountTokensRequest)


class DecodedMessages(Struct, frozen=True):
    """A checked request, the tools that its prompt does not declare at the beginning, and its edit.

    `edited`: it asks for edits of the conversation, with or without effect.
    """

    request: ChatRequest
    deferred_tools: Sequence[Tool]
    clear_tool_uses: ClearToolUses | None
    edited: bool


def decode_messages_request(body: bytes, reading: Reading) -> DecodedMessages:
    """Decode and check the body of `POST /v1/messages`.

    Raises `InvalidRequestError` with `param` naming the field at fault.
    """
    check_body_size(body)
    given = decode_json(_strict_messages if reading.strict_fields else _messages, body)
    check_messages_fields(body)
    decoded = _decoded(given, reading)
    request = decoded.request
    request.max_completion_tokens = given.max_tokens
    request.stream = given.stream
    request.temperature, request.top_p, request.top_k = given.temperature, given.top_p, given.top_k
    check_stop(given.stop_sequences, param="stop_sequences")
    request.stop = given.stop_sequences
    return decoded


def decode_count_request(body: bytes, reading: Reading) -> DecodedMessages:
    """Decode and check the body of `POST /v1/messages/count_tokens`, as `decode_messages_request` does."""
    check_body_size(body)
    given = decode_json(_strict_count if reading.strict_fields else _count, body)
    check_messages_fields(body)
    return _decoded(given, reading)


def _decoded(given: CountTokensRequest, reading: Reading) -> DecodedMessages:
    tools = chat_tools(given.tools)
    by_name = {tool.function.name: tool for tool in tools.all if tool.function is not None}
    references: set[str] = set()

    def declare(name: str) -> str:
        tool = by_name.get(name)
        if tool is None:
            # The tool's server may have gone since, and the session goes on.
            return f"[tool {name} is not available]"
        if name in references:
            # A body of many references to a long declaration would become a prompt of gigabytes.
            return f"[tool {name} is declared above]"
        references.add(name)
        return reading.declaration_of(tool)

    messages = system_messages(given.system, with_billing=reading.render_billing_block)
    messages += chat_messages(given.messages, declare=declare, non_text_parts=reading.non_text_parts)
    choice = given.tool_choice
    request = ChatRequest(
        model=given.model,
        messages=messages,
        tools=list(tools.declared) or None,
        tool_choice=chat_tool_choice(choice, by_name.keys()),
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use else None,
        response_format=_response_format(given),
        thinking=given.thinking,
    )
    if messages[-1].role == "assistant":
        _check_prefill(request, tools, f"messages[{len(given.messages) - 1}]")
        request.continue_final_message = True
    return DecodedMessages(
        request,
        tools.deferred,
        clear_tool_uses(given.context_management),
        given.context_management is not None,
    )


def _response_format(given: CountTokensRequest) -> ResponseFormat | None:
    config = given.output_config
    form, path = given.output_format, "output_format"
    if config is not None and config.format is not None:
        form, path = config.format, "output_config.format"
    if form is None:
        return None
    if form.type != "json_schema":
        raise invalid_value(
            f"the type is {form.type!r}; only 'json_schema' is served", f"{path}.type", code="invalid_value"
        )
    if form.schema_ is None:
        raise missing_parameter(f"{path}.schema")
    check_schema(form.schema_, f"{path}.schema")
    # Not strict: an agent has no other form to ask for, so a part that cannot be enforced is left out.
    return ResponseFormat(
        type="json_schema", json_schema=JsonSchemaFormat(name="answer", schema_=form.schema_)
    )


def _check_prefill(request: ChatRequest, tools: Tools, path: str) -> None:
    """Refuse to continue the assistant's text with a grammar, which would begin anew behind it."""
    calls = request.tool_choice != "none" and bool(tools.all)
    constrained = calls and (
        request.tool_choice not in (None, "auto")
        or request.parallel_tool_calls is False
        or any(tool.function is not None and tool.function.strict for tool in tools.all)
    )
    if constrained or request.response_format is not None:
        raise InvalidRequestError(
            f"{path} is the beginning of the answer, which is not served with an output format, nor with"
            " tools that are strict, must be called or must not be called in parallel: their grammar would"
            " begin anew after the text. End with a user message.",
            param=path,
        )
