"""Shapes of answers of the Responses API, for the OpenAPI document and for tests.

`response`, `item_events` and `events` write the answers as bytes and use none of this.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from serval.wire.answers import Answer, Count, TopLogprob, UnixTime

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(Answer):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list["ScoredToken"]


class ScoredToken(TopLogprob):
    """A token of the text, and the most likely tokens at its position."""

    top_logprobs: list[TopLogprob]


class ReasoningText(Answer):
    """The text of the model's thoughts."""

    type: Literal["reasoning_text"]
    text: str


class OutputMessage(Answer):
    """A message of the model."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class OutputReasoning(Answer):
    """Thoughts of the model."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    content: list[ReasoningText]
    encrypted_content: str | None


class OutputFunctionCall(Answer):
    """Call of a function; `arguments` is a string of JSON."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    namespace: str | None = None
    arguments: str


class OutputCustomToolCall(Answer):
    """Call of a custom tool."""

    id: str
    type: Literal["custom_tool_call"]
    status: ItemStatus
    call_id: str
    name: str
    namespace: str | None = None
    input: str


class OutputToolSearchCall(Answer):
    """A search for tools that the client runs."""

    id: str
    type: Literal["tool_search_call"]
    status: ItemStatus
    call_id: str
    execution: Literal["client"]
    arguments: dict[str, Any]


class OutputLocalShellCall(Answer):
    """A command for the client's shell."""

    id: str
    type: Literal["local_shell_call"]
    status: ItemStatus
    call_id: str
    action: dict[str, Any]


OutputItem = (
    OutputMessage
    | OutputReasoning
    | OutputFunctionCall
    | OutputCustomToolCall
    | OutputToolSearchCall
    | OutputLocalShellCall
)


class InputTokensDetails(Answer):
    """Prompt tokens found in the engine's cache."""

    cached_tokens: Count
    cache_write_tokens: Literal[0]


class OutputTokensDetails(Answer):
    """Answer's tokens that are reasoning."""

    reasoning_tokens: Count


class ResponseUsage(Answer):
    """Token counts of the engine; `input_tokens` holds the cached ones."""

    input_tokens: Count
    input_tokens_details: InputTokensDetails
    output_tokens: Count
    output_tokens_details: OutputTokensDetails
    total_tokens: Count


class ResponseFailure(Answer):
    """Reason of a failed response."""

    code: str
    message: str


class IncompleteDetails(Answer):
    """Reason of an incomplete response."""

    reason: Literal["max_output_tokens"]


class ResponseObject(Answer):
    """A response. `store` says whether it is kept, and `tools` what the model was given."""

    id: Annotated[str, Field(pattern="^resp_")]
    object: Literal["response"]
    created_at: UnixTime
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    output: list[OutputItem]
    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: Literal["priority", "default", "flex"]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: Count
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    user: str | None
    store: bool
    usage: ResponseUsage | None


class ResponseEvent(Answer):
    """Data of one event; its type decides which other fields there are."""

    type: Annotated[str, Field(pattern=r"^response\.")]
    sequence_number: Count
    response: ResponseObject | None = None
    output_index: Count | None = None
    item: OutputItem | None = None
    item_id: str | None = None
    content_index: Count | None = None
    part: OutputText | None = None
    delta: str | None = None
    text: str | None = None
    logprobs: list[ScoredToken] | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class InputItemList(Answer):
    """Items of a stored response's request, as they were sent."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(Answer):
    """A response that is no longer stored."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]
