"""Request of `POST /v1/messages` and `/v1/messages/count_tokens`.

Explicit null means the same as an absent field. Fields of blocks that have no effect, such as
`cache_control`, and data of images are not declared: the decoder passes over them without building them.
"""

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from serval.wire.annotations import one_of
from serval.wire.chat_request import Thinking, TokenCount, ToolName

# Agents with many MCP servers declare hundreds, most of them deferred.
MAX_TOOLS: Final = 1024


class Block(Struct, omit_defaults=True):
    """A part of a message's content; `type` decides which fields count.

    `text` has text; `tool_use` id, name and input; `tool_result` tool_use_id and content; `tool_reference`
    tool_name; `thinking` the model's thoughts. `redacted_thinking` is accepted and dropped.
    """

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    # An object is the content of a server tool's failed result.
    content: "str | list[Block] | dict[str, Any] | None" = None
    tool_name: str | None = None


class InputMessage(Struct):
    """A message; `system` ones are instructions at their place in the conversation."""

    role: Annotated[str, one_of("user", "assistant", "system")]
    content: str | list[Block]


class ToolDeclaration(Struct, omit_defaults=True):
    """A tool of the client: `type` is absent or `custom`. Tools of other types are left out.

    `defer_loading`: not declared to the model before a `tool_reference` in a tool result names it.
    """

    name: ToolName | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class MessagesToolChoice(Struct, omit_defaults=True):
    """Rule for calls: the model may call (`auto`), must (`any`, or `tool` with a name), or must not."""

    type: Annotated[str, one_of("auto", "any", "tool", "none")]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Struct, omit_defaults=True, rename={"schema_": "schema"}):
    """Required form of the text: JSON that matches a schema."""

    type: Annotated[str, one_of("json_schema")]
    schema_: dict[str, Any] | None = None


class OutputConfig(Struct, omit_defaults=True):
    """Form of the text; `effort` is accepted without effect."""

    format: OutputFormat | None = None


class ContextManagement(Struct):
    """Edits of the conversation before the model reads it (`serval.wire.messages.context_edits`)."""

    edits: list[dict[str, Any]] | None = None


class CountTokensRequest(Struct):
    """The part of a request that the model reads; the other fields have no effect on the count."""

    model: str
    messages: Annotated[list[InputMessage], Meta(extra_json_schema={"minItems": 1})]
    system: str | list[Block] | None = None
    tools: Annotated[list[ToolDeclaration], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: MessagesToolChoice | None = None
    output_config: OutputConfig | None = None
    # The earlier name of `output_config.format`.
    output_format: OutputFormat | None = None
    thinking: Thinking | None = None
    context_management: ContextManagement | None = None
    # Accepted without effect on the answer.
    cache_control: Any = None
    mcp_servers: Any = None


class MessagesRequest(CountTokensRequest, kw_only=True):
    """Supported fields. `max_tokens` is cut to the room that the prompt leaves."""

    max_tokens: TokenCount
    stream: bool | None = None
    stop_sequences: (
        Annotated[
            list[
                Annotated[
                    str,
                    Meta(extra_json_schema={"minLength": 1, "maxLength": 1024}),
                ]
            ],
            Meta(extra_json_schema={"maxItems": 4}),
        ]
        | None
    ) = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**30)] | None = None
    # Accepted without effect on the answer.
    metadata: Any = None
    service_tier: Any = None
    container: Any = None
    inference_geo: Any = None
    speed: Any = None
    diagnostics: Any = None
