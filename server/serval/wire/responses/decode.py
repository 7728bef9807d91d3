"""Decoding and checking the body of `POST /v1/responses`."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from serval.errors import InvalidRequestError
from serval.wire.body_size import check_body_size
from serval.wire.chat_request import ChatRequest, JsonSchemaFormat, Message, ResponseFormat, check_schema
from serval.wire.decode import decode_json, missing_parameter
from serval.wire.foreign_fields import check_responses_fields
from serval.wire.omitted_parts import NonTextParts
from serval.wire.responses.conversation import Declare, conversation_messages
from serval.wire.responses.items import MessageItem, PlacedItem, decode_items
from serval.wire.responses.request import ResponsesRequest, TextFormat
from serval.wire.responses.tool_choice import chat_tool_choice
from serval.wire.responses.tools import LoadedTools, ToolSet, chat_tools

# Names of fields, by those of Chat Completions.
FIELDS: Final = {"messages": "input", "response_format": "text.format"}
_LOGPROBS: Final = "message.output_text.logprobs"
_TIERS: Final = ("auto", "default", "flex", "scale", "priority")


class _StrictResponsesRequest(ResponsesRequest, forbid_unknown_fields=True):
    """The request for servers that refuse unknown fields."""


_decoder = msgspec.json.Decoder(ResponsesRequest)
_strict_decoder: "msgspec.json.Decoder[ResponsesRequest]" = msgspec.json.Decoder(_StrictResponsesRequest)


class DecodedResponses(Struct, frozen=True):
    """A checked request, and what it becomes. `chat.messages` are empty until `add_messages` is called."""

    request: ResponsesRequest
    items: list[PlacedItem]
    chat: ChatRequest
    tools: ToolSet


def decode_responses_request(body: bytes, *, strict: bool) -> DecodedResponses:
    """Decode and check a request body; `strict` refuses unknown top-level fields.

    Raises `InvalidRequestError` with `param` naming the field at fault.
    """
    check_body_size(body)
    check_responses_fields(body)
    request = decode_json(_strict_decoder if strict else _decoder, body)
    if request.input is None and request.previous_response_id is None:
        raise missing_parameter("input")
    items = _items(request)
    tools = chat_tools(request.tools or ())
    chat = _chat_request(request, tools)
    return DecodedResponses(request, items, chat, tools)


def add_messages(
    decoded: DecodedResponses,
    before: Sequence[PlacedItem] = (),
    *,
    non_text_parts: NonTextParts,
    declare: Declare,
) -> None:
    """Add the conversation: the items `before`, and those of the request.

    Raises `InvalidRequestError` with the path of the field at fault.
    """
    messages: list[Message] = conversation_messages(
        [*before, *decoded.items],
        instructions=decoded.request.instructions,
        non_text_parts=non_text_parts,
        loaded=LoadedTools(decoded.tools),
        declare=declare,
    )
    if all(message.role in ("system", "developer") for message in messages) and not decoded.items:
        raise InvalidRequestError("'input' is empty; send at least one item.", param="input")
    decoded.chat.messages.extend(messages)


def _items(request: ResponsesRequest) -> list[PlacedItem]:
    given = request.input
    if given is None:
        return []
    if isinstance(given, str):
        return [PlacedItem("input", MessageItem(role="user", content=given))]
    return decode_items(given, "input")


def _chat_request(request: ResponsesRequest, tools: ToolSet) -> ChatRequest:
    functions = [*tools.declared]
    return ChatRequest(
        model=request.model,
        messages=[],
        tools=functions or None,
        tool_choice=chat_tool_choice(request.tool_choice, tools.called),
        parallel_tool_calls=request.parallel_tool_calls,
        stream=request.stream,
        max_completion_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=request.seed,
        logprobs=bool(request.top_logprobs) or _LOGPROBS in (request.include or ()),
        top_logprobs=request.top_logprobs,
        response_format=_response_format(request),
        reasoning_effort=None if request.reasoning is None else request.reasoning.effort,
    )


def _response_format(request: ResponsesRequest) -> ResponseFormat | None:
    given = None if request.text is None else request.text.format
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return ResponseFormat(type="json_object")
    if given.type != "json_schema":
        raise InvalidRequestError(
            f"text.format has type {given.type!r}; it must be 'text', 'json_object' or 'json_schema'.",
            param="text.format.type",
        )
    return ResponseFormat(type="json_schema", json_schema=_json_schema(given))


def _json_schema(given: TextFormat) -> JsonSchemaFormat:
    if given.schema_ is None:
        raise missing_parameter("text.format.schema")
    check_schema(given.schema_, "text.format.schema")
    return JsonSchemaFormat(name=given.name or "answer", schema_=given.schema_, strict=given.strict)


def known_tier(request: ResponsesRequest) -> str | None:
    """Return the service tier that the request asks for; an unknown one asks for nothing."""
    return request.service_tier if request.service_tier in _TIERS else None
