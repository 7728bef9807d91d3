"""Decoding and checking the body of `POST /v1/chat/completions`."""

import msgspec
from msgspec import Struct

from serval.wire.body_size import check_body_size
from serval.wire.chat_request import (
    ChatRequest,
    Message,
    Tool,
    check_chat_request,
    check_conversation,
)
from serval.wire.decode import convert_json, decode_json
from serval.wire.foreign_fields import check_chat_fields
from serval.wire.legacy_functions import with_tools
from serval.wire.omitted_parts import NonTextParts, omit_parts
from serval.wire.tool_choice import NamedToolChoice


class _StrictChatRequest(ChatRequest, forbid_unknown_fields=True):
    """The request for servers that refuse unknown fields."""


_decoder = msgspec.json.Decoder(ChatRequest)
_strict_decoder: "msgspec.json.Decoder[ChatRequest]" = msgspec.json.Decoder(_StrictChatRequest)


def decode_chat_request(
    body: bytes, *, max_choices: int, strict: bool, non_text_parts: NonTextParts
) -> ChatRequest:
    """Decode and check a request body; `strict` refuses unknown top-level fields.

    Raises `InvalidRequestError` with `param` naming the field at fault.
    """
    check_body_size(body)
    request = with_tools(decode_json(_strict_decoder if strict else _decoder, body))
    if request.tool_choice == "any":
        request.tool_choice = "required"  # the word of Mistral's and Anthropic's APIs
    check_chat_fields(body)
    omit_parts(request.messages, non_text_parts)
    check_chat_request(request, max_choices=max_choices)
    return request


class _Conversation(Struct):
    """The part of a request that the chat template renders."""

    messages: list[Message]
    tools: list[Tool] | None = None
    tool_choice: str | NamedToolChoice | None = None


def conversation_request(given: object, *, non_text_parts: NonTextParts = "refuse_new") -> ChatRequest:
    """Check a conversation that is only rendered, given as decoded JSON.

    `model` is left empty, and calls at the end need no results. Raises `InvalidRequestError` with `param`
    naming the field at fault.
    """
    conversation = convert_json(given, _Conversation)
    request = with_tools(
        ChatRequest(
            model="",
            messages=conversation.messages,
            tools=conversation.tools,
            tool_choice=conversation.tool_choice,
        )
    )
    omit_parts(request.messages, non_text_parts)
    check_conversation(request, may_end_with_calls=True)
    return request
