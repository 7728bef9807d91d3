"""Shapes of answers of the Messages API, for the OpenAPI document and for tests.

`answer` and `stream` write them as bytes and use none of this.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from serval.wire.answers import Answer, Count


class MessagesUsage(Answer):
    """Token counts; `input_tokens` are those that were not found in the cache."""

    input_tokens: Count
    cache_creation_input_tokens: Count
    cache_read_input_tokens: Count
    output_tokens: Count


class TextBlock(Answer):
    """A text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Answer):
    """Reasoning of the model; it is not signed."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(Answer):
    """A tool call of the model."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


StopReasonAnswer = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class AppliedEdit(Answer):
    """An edit of the conversation, and what it removed from the prompt."""

    type: Literal["clear_tool_uses_20250919"]
    cleared_tool_uses: Count
    cleared_input_tokens: Count


class AppliedEdits(Answer):
    """Edits that were applied; only in answers to requests with `context_management`."""

    applied_edits: list[AppliedEdit]


class OriginalCount(Answer):
    """Number of tokens before edits."""

    original_input_tokens: Count


class MessagesAnswer(Answer):
    """Whole answer; as the beginning of a stream it has no content and no reason."""

    id: str = Field(pattern="^msg_")
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: StopReasonAnswer | None
    stop_sequence: str | None
    usage: MessagesUsage
    context_management: AppliedEdits | None = None


class MessagesErrorDetail(Answer):
    """Description of an error."""

    type: str
    message: str


class MessagesError(Answer):
    """Error response of any status, and the data of the event `error`."""

    type: Literal["error"]
    error: MessagesErrorDetail
    request_id: str | None = None


class BlockDelta(Answer):
    """A piece of the open block, by its type."""

    type: Literal["text_delta", "thinking_delta", "input_json_delta"]
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class StopDelta(Answer):
    """Reason for the end of the answer."""

    stop_reason: StopReasonAnswer
    stop_sequence: str | None


class MessageStart(Answer):
    """Beginning of a stream."""

    type: Literal["message_start"]
    message: MessagesAnswer


class BlockStart(Answer):
    """A new block; it is closed before the next one begins."""

    type: Literal["content_block_start"]
    index: Count
    content_block: TextBlock | ThinkingBlock | ToolUseBlock


class BlockContent(Answer):
    """A piece of a block."""

    type: Literal["content_block_delta"]
    index: Count
    delta: BlockDelta


class BlockStop(Answer):
    """End of a block."""

    type: Literal["content_block_stop"]
    index: Count


class MessageEnd(Answer):
    """Reason and counts at the end."""

    type: Literal["message_delta"]
    delta: StopDelta
    usage: MessagesUsage
    context_management: AppliedEdits | None = None


class PlainEvent(Answer):
    """A sign of life, or the last event."""

    type: Literal["ping", "message_stop"]


class MessagesEvent(
    RootModel[
        Annotated[
            MessageStart | BlockStart | BlockContent | BlockStop | MessageEnd | PlainEvent | MessagesError,
            Field(discriminator="type"),
        ]
    ]
):
    """Data of one event, whose name is its `type`."""


class CountTokensAnswer(Answer):
    """Number of tokens of the prompt."""

    input_tokens: Count
    context_management: OriginalCount | None = None
