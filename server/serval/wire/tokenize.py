"""`POST /tokenize` and `POST /detokenize`: requests and answers, in vLLM's format."""

from typing import Annotated

from msgspec import Meta
from pydantic import BaseModel, ConfigDict

from serval.errors import InvalidRequestError
from serval.wire.answers import Answer
from serval.wire.chat_request import (
    ChatRequest,
    Message,
    Tool,
    check_chat_request,
)
from serval.wire.legacy_functions import with_tools
from serval.wire.omitted_parts import NonTextParts, omit_parts
from serval.wire.struct_field import StructField
from serval.wire.tool_choice import MAX_TOOLS, NamedToolChoice

_Messages = Annotated[list[Message] | None, StructField(list[Message] | None)]
_Tools = Annotated[list[Tool] | None, StructField(Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None)]
_ToolChoice = Annotated[str | NamedToolChoice | None, StructField(str | NamedToolChoice | None)]
_TokenIds = Annotated[list[int], StructField(list[int])]


class TokenizeRequest(BaseModel):
    """Either a text or a conversation."""

    model_config = ConfigDict(strict=True)

    model: str
    prompt: str | None = None
    messages: _Messages = None
    tools: _Tools = None
    tool_choice: _ToolChoice = None


class TokenizeAnswer(Answer):
    """Token ids, their number, and the context length of the model."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeRequest(BaseModel):
    """Token ids."""

    model_config = ConfigDict(strict=True)

    model: str
    tokens: _TokenIds


class DetokenizeAnswer(Answer):
    """Text of the token ids."""

    prompt: str


def text_or_conversation(request: TokenizeRequest, non_text_parts: NonTextParts) -> str | ChatRequest:
    """Return the text or the conversation. Raises `InvalidRequestError` unless exactly one is given."""
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequestError("Send either 'prompt' or 'messages'.", param="prompt")
    if request.messages is None:
        return request.prompt or ""
    chat = with_tools(
        ChatRequest(
            model=request.model,
            messages=request.messages,
            tools=request.tools,
            tool_choice=request.tool_choice,
        )
    )
    omit_parts(chat.messages, non_text_parts)
    check_chat_request(chat, max_choices=1)
    return chat
