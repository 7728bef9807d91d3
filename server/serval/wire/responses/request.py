"""Request of `POST /v1/responses`.

Explicit null means the same as an absent field. Items and tools are decoded one by one, each by its type
(`serval.wire.responses.items`, `serval.wire.responses.tools`).
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from serval.wire.annotations import one_of
from serval.wire.chat_request import INT64, TokenCount

# Agents with many MCP servers declare hundreds. Functions in namespaces count, too.
MAX_TOOLS: Final = 1024
_METADATA: Final = Meta(
    max_length=16, extra_json_schema={"description": "Texts by name; returned with the answer."}
)
_ITEMS: Final = Meta(
    extra_json_schema={"items": {"$ref": "#/components/schemas/InputItem"}, "description": "Items in order."}
)
_TOOLS: Final = Meta(
    max_length=MAX_TOOLS, extra_json_schema={"items": {"$ref": "#/components/schemas/ToolDeclaration"}}
)


class TextFormat(Struct, omit_defaults=True, rename={"schema_": "schema"}):
    """Required form of the text: `text`, `json_object`, or `json_schema` with a schema."""

    type: Annotated[str, one_of("text", "json_object", "json_schema")]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Struct, omit_defaults=True):
    """Form of the text; `verbosity` is accepted without effect."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(Struct, omit_defaults=True):
    """The effort "none" switches thinking off, if the model's template can; others have no effect."""

    effort: str | None = None
    summary: str | None = None


class StreamOptions(Struct):
    """Accepted without effect: no padding is sent to hide lengths from observers."""

    include_obfuscation: bool | None = None


class ToolChoice(Struct, omit_defaults=True):
    """One tool by its type and name, or `allowed_tools` with a mode and some of the tools."""

    type: str
    name: str | None = None
    namespace: str | None = None
    mode: Annotated[str, one_of("auto", "required")] | None = None
    tools: "Annotated[list[ToolChoice], Meta(max_length=MAX_TOOLS)] | None" = None


class ResponsesRequest(Struct):
    """Supported fields. `max_output_tokens` is cut to the room that the prompt leaves."""

    model: str
    input: str | Annotated[list[msgspec.Raw], _ITEMS] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    tools: Annotated[list[msgspec.Raw], _TOOLS] | None = None
    tool_choice: Annotated[str, one_of("none", "auto", "required")] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: TokenCount | None = None
    text: TextOptions | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**30)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, INT64] | None = None
    service_tier: str | None = None
    metadata: Annotated[dict[str, Annotated[str, Meta(max_length=512)]], _METADATA] | None = None
    # "auto" drops the oldest turns and calls of an input that does not fit; other values have no effect.
    truncation: str | None = None
    # Not served: other values than null and false are refused.
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    # Accepted without effect on the answer.
    reasoning: ReasoningOptions | None = None
    max_tool_calls: int | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    client_metadata: Any = None
