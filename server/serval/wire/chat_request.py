"""Request of `POST /v1/chat/completions`: types, and rules between fields.

Explicit null means the same as an absent field. `serval.wire.chat_decode` decodes the request.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from serval.errors import InvalidRequestError
from serval.schema.error import SchemaError
from serval.schema.size import check_schema_size
from serval.wire.annotations import one_of
from serval.wire.body_size import check_arguments_size
from serval.wire.sampling_rules import LogitBias, Stop, StopTokenIds, check_sampling
from serval.wire.tool_choice import MAX_TOOLS, NamedFunction, NamedToolChoice, check_tool_choice

INT64 = Meta(ge=-(2**63), le=2**63 - 1)
# Allows more than any context; the context check refuses such numbers with a better message.
TokenCount = Annotated[int, Meta(ge=1, le=2**53)]
# Without "function", which `legacy_functions` has turned into "tool" before roles are checked.
ROLES = ("system", "developer", "user", "assistant", "tool")


TemplateText = Annotated[str, Meta(max_length=1024)]
_ToolChoiceWord = Annotated[str, one_of("none", "auto", "required", "any")]
# Wider than OpenAI's rule, because tools of MCP servers have dots in their names, or more than 64 characters.
# LongCat's calls can hold every such name (`serval.tools.longcat_calls`).
ToolName = Annotated[str, Meta(pattern=r"^(?=[.:/-]*[a-zA-Z0-9_])[a-zA-Z0-9_.:/-]{1,256}\Z")]


class ContentPart(Struct, omit_defaults=True):
    """A part of a message's content."""

    type: Annotated[str, one_of("text", "refusal")]
    text: str | None = None
    refusal: str | None = None


class FunctionCall(Struct):
    """Function of a tool call in the history; `arguments` is any text, usually JSON, or a JSON object."""

    name: str
    arguments: str | dict[str, Any] | None


class ToolCall(Struct):
    """A tool call in the history."""

    id: str
    function: FunctionCall
    type: str = "function"


class Message(Struct, omit_defaults=True):
    """A message of any role; `check_chat_request` checks the fields that each role needs."""

    role: Annotated[str, one_of("system", "developer", "user", "assistant", "tool", "function")]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    reasoning_content: str | None = None
    # The same under the name of other servers; what is no text has no effect.
    reasoning: Any = None
    refusal: str | None = None


class FunctionDeclaration(Struct, omit_defaults=True):
    """Name, description and parameters of a tool."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, omit_defaults=True):
    """A tool the model may call."""

    type: Annotated[str, one_of("function")]
    function: FunctionDeclaration | None = None


class Thinking(Struct):
    """Thinking in Anthropic's form; other fields have no effect."""

    type: str


class StreamOptions(Struct):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    # Accepted without effect: no padding is sent to hide lengths from observers.
    include_obfuscation: bool | None = None


class JsonSchemaFormat(Struct, rename={"schema_": "schema"}, omit_defaults=True):
    """Schema of a `response_format`; the grammar package checks it."""

    # Only a label, so it may be any text: frameworks name schemas after types, as in `List[Item]`.
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    schema_: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Struct, omit_defaults=True):
    """Required form of the text: `text`, `json_object`, or `json_schema` with a schema."""

    type: Annotated[str, one_of("text", "json_object", "json_schema")]
    json_schema: JsonSchemaFormat | None = None


class ChatRequest(Struct):
    """Supported fields.

    Names and ranges are OpenAI's; `top_k`, `min_p`, `repetition_penalty`, `regex` and `ebnf` are SGLang's.
    """

    model: str
    messages: Annotated[list[Message], Meta(extra_json_schema={"minItems": 1})]
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: _ToolChoiceWord | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**30)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, INT64] | None = None
    stop: Stop | None = None
    # Further rules for the end of an answer, under the names of other servers.
    stop_token_ids: StopTokenIds | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    logit_bias: LogitBias | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    # The last message is the beginning of the answer; `add_generation_prompt` is then false or absent.
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    # Switches for thinking, under the names of other servers (`serval.wire.thinking`).
    enable_thinking: bool | None = None
    thinking: Thinking | None = None
    # Variables of the checkpoint's template, such as enable_thinking.
    chat_template_kwargs: (
        Annotated[dict[str, bool | int | float | TemplateText | None], Meta(max_length=16)] | None
    ) = None
    # Grammars for the whole answer; they need a permission.
    regex: Annotated[str, Meta(min_length=1)] | None = None
    ebnf: Annotated[str, Meta(min_length=1)] | None = None
    functions: Annotated[list[FunctionDeclaration], Meta(max_length=MAX_TOOLS)] | None = None
    function_call: str | NamedFunction | None = None
    modalities: Annotated[list[str], Meta(extra_json_schema={"const": ["text"]})] | None = None
    # Priority class by OpenAI's names; the answer states the one used.
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    # "none" switches thinking off; other values have no effect.
    reasoning_effort: str | None = None
    # Accepted without effect on the answer.
    user: str | None = None
    safety_identifier: Annotated[str, Meta(max_length=64)] | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=1024)] | None = None
    prompt_cache_retention: str | None = None
    verbosity: str | None = None
    store: bool | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
            Meta(max_length=16),
        ]
        | None
    ) = None


def check_chat_request(request: ChatRequest, *, max_choices: int) -> None:
    """Check the rules that types cannot express."""
    check_conversation(request)
    given = request.response_format
    if given is not None and given.json_schema is not None:
        check_schema(given.json_schema.schema_, "response_format.json_schema.schema")
    _check_options(request, max_choices)
    _check_unsupported(request)


def check_conversation(request: ChatRequest, *, may_end_with_calls: bool = False) -> None:
    """Check messages, tools and tool choice. `may_end_with_calls`: calls at the end need no results."""
    _check_messages(request.messages, may_end_with_calls=may_end_with_calls)
    calls = [call for message in request.messages for call in message.tool_calls or ()]
    check_arguments_size(
        [call.function.arguments for call in calls if isinstance(call.function.arguments, str)]
    )
    _check_tools(request)


def _check_messages(messages: list[Message], *, may_end_with_calls: bool) -> None:
    if not messages:
        raise InvalidRequestError("'messages' is empty; send at least one message.", param="messages")
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        _check_form(message, path)
        if message.role == "tool":
            _check_tool_result(message, open_calls, path)
            continue
        _check_all_answered(open_calls, path)
        if message.role == "assistant":
            # A message with nothing is an answer that was empty, or held only reasoning.
            open_calls = {call.id for call in message.tool_calls or ()}
        elif message.content is None:
            raise InvalidRequestError(
                f"{path} has role {message.role!r} and no content.",
                param=f"{path}.content",
                code="missing_required_parameter",
            )
    if not may_end_with_calls:
        _check_all_answered(open_calls, f"messages[{len(messages) - 1}]")


def _check_form(message: Message, path: str) -> None:
    if message.role not in ROLES:
        raise InvalidRequestError(
            f"{path}.role is {message.role!r}; it must be one of {', '.join(map(repr, ROLES))}.",
            param=f"{path}.role",
        )
    if message.content is None or isinstance(message.content, str):
        return
    for index, part in enumerate(message.content):
        below = f"{path}.content[{index}]"
        if part.type not in ("text", "refusal"):
            raise InvalidRequestError(
                f"{below} has type {part.type!r}; this model takes text only: send parts of type 'text'.",
                param=f"{below}.type",
            )
        if (part.text if part.type == "text" else part.refusal) is None:
            raise InvalidRequestError(f"{below}.{part.type} must be a string.", param=f"{below}.{part.type}")


def _check_tool_result(message: Message, open_calls: set[str], path: str) -> None:
    if message.tool_call_id is None:
        raise InvalidRequestError(
            f"Missing required parameter: '{path}.tool_call_id'.",
            param=f"{path}.tool_call_id",
            code="missing_required_parameter",
        )
    if message.tool_call_id not in open_calls:
        raise InvalidRequestError(
            f"{path}.tool_call_id is {message.tool_call_id!r}, which answers no call of the assistant message"
            " before it; a tool result must follow the assistant message that called the tool, once for each"
            " call.",
            param=f"{path}.tool_call_id",
        )
    open_calls.remove(message.tool_call_id)
    if message.content is None:
        raise InvalidRequestError(
            f"{path} has role 'tool' and no content.",
            param=f"{path}.content",
            code="missing_required_parameter",
        )


def _check_all_answered(open_calls: set[str], path: str) -> None:
    if open_calls:
        missing = ", ".join(sorted(map(repr, open_calls)))
        raise InvalidRequestError(
            "An assistant message with tool_calls must be followed by a tool message for each call; missing"
            f" before or at {path}: {missing}.",
            param="messages",
        )


def _check_tools(request: ChatRequest) -> None:
    names = set()
    for index, tool in enumerate(request.tools or ()):
        if tool.type != "function" or tool.function is None:
            elsewhere = "; /v1/responses serves custom tools" if tool.type == "custom" else ""
            raise InvalidRequestError(
                f"tools[{index}] has type {tool.type!r}{'' if tool.function else ' and no function'};"
                f" only {{'type': 'function', 'function': {{...}}}} is served{elsewhere}.",
                param=f"tools[{index}].function" if tool.type == "function" else f"tools[{index}].type",
            )
        if tool.function.name in names:
            raise InvalidRequestError(
                f"tools[{index}] is the second tool named {tool.function.name!r}; names must differ.",
                param=f"tools[{index}].function.name",
            )
        names.add(tool.function.name)
        check_schema(tool.function.parameters, f"tools[{index}].function.parameters")
    if request.tool_choice is not None:
        check_tool_choice(request.tool_choice, names)


def check_schema(schema: dict[str, Any] | None, path: str) -> None:
    """Raise `InvalidRequestError` naming `path` if the schema is too large or too deep."""
    try:
        check_schema_size(schema)
    except SchemaError as error:
        raise InvalidRequestError(f"Invalid schema in {path!r}: {error.problem}.", param=path) from None


def _check_options(request: ChatRequest, max_choices: int) -> None:
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError("stream_options is only allowed with stream: true.", param="stream_options")
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs: true.", param="top_logprobs")
    check_sampling(request, max_choices=max_choices)
    _check_continuation(request)
    _check_grammar(request)


def _check_continuation(request: ChatRequest) -> None:
    if not request.continue_final_message:
        if request.add_generation_prompt is False:
            raise InvalidRequestError(
                "add_generation_prompt false is served only with continue_final_message: true.",
                param="add_generation_prompt",
                code="unsupported_value",
            )
        return
    if request.add_generation_prompt:
        raise InvalidRequestError(
            "Send add_generation_prompt or continue_final_message as true, not both.",
            param="add_generation_prompt",
        )
    last = request.messages[-1]
    if last.role != "assistant" or last.tool_calls or last.content is None:
        raise InvalidRequestError(
            "continue_final_message is true, but the last message is not an assistant message with content"
            " and without tool_calls.",
            param="continue_final_message",
        )


def _check_grammar(request: ChatRequest) -> None:
    name = "regex" if request.regex is not None else "ebnf"
    if request.regex is None and request.ebnf is None:
        return
    if request.tools and request.tool_choice != "none":
        raise InvalidRequestError(
            f"{name} is for the whole answer and leaves no room for tool calls; send it without tools, or"
            " with tool_choice 'none'.",
            param=name,
        )
    if request.response_format is not None and request.response_format.type != "text":
        raise InvalidRequestError(f"Send {name} or response_format, not both.", param=name)


def _check_unsupported(request: ChatRequest) -> None:
    if request.modalities is not None and request.modalities != ["text"]:
        raise InvalidRequestError(
            f"modalities is {request.modalities!r}; this model answers with text only: ['text'].",
            param="modalities",
            code="unsupported_value",
        )
    given = request.response_format
    if given is not None and given.type not in ("text", "json_object", "json_schema"):
        raise InvalidRequestError(
            f"response_format has type {given.type!r}; it must be 'text', 'json_object' or 'json_schema'.",
            param="response_format.type",
        )
    if given is not None and given.type == "json_schema" and given.json_schema is None:
        raise InvalidRequestError(
            "response_format of type 'json_schema' has no json_schema; send its name and schema there.",
            param="response_format.json_schema",
            code="missing_required_parameter",
        )
