"""`POST /tokenize` and `POST /detokenize`: requests and answers, in the form vLLM gave them."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from serval.errors import InvalidRequestError
from serval.wire.chat_request import (
    MAX_TOOLS,
    ChatRequest,
    Message,
    NamedToolChoice,
    Tool,
    check_chat_request,
)
from serval.wire.decode import decode_json
from serval.wire.legacy_functions import with_tools


class TokenizeRequest(Struct):
    """Either a text or a conversation."""

    model: str
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | NamedToolChoice | None = None


class TokenizeAnswer(Struct):
    """The token ids, how many they are, and how many the model takes."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeRequest(Struct):
    """Token ids."""

    model: str
    tokens: list[int]


class DetokenizeAnswer(Struct):
    """Their text."""

    prompt: str


_tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeRequest)


def decode_tokenize_request(body: bytes) -> tuple[str, str | ChatRequest]:
    """The model and either the text or the conversation. Raises `InvalidRequestError`."""
    request = decode_json(_tokenize_decoder, body)
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequestError("Send either 'prompt' or 'messages'.", param="prompt")
    if request.messages is None:
        return request.model, request.prompt or ""
    chat = with_tools(
        ChatRequest(
            model=request.model,
            messages=request.messages,
            tools=request.tools,
            tool_choice=request.tool_choice,
        )
    )
    check_chat_request(chat, max_choices=1)
    return request.model, chat


def decode_detokenize_request(body: bytes) -> DetokenizeRequest:
    """Decode a request body. Raises `InvalidRequestError`."""
    return decode_json(_detokenize_decoder, body)
