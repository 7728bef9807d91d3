"""OpenAI's form before tools: `functions` and `function_call`, converted in requests and answers.

Such a request becomes one with tools, and its answer has the old form: at most one call,
`message.function_call`, finish reason `function_call`.
"""

from typing import Any

import msgspec
from msgspec.structs import replace

from serval.errors import InvalidRequestError
from serval.wire.chat_request import (
    ChatRequest,
    FunctionDeclaration,
    Message,
    Tool,
    ToolCall,
)
from serval.wire.chat_response import AnsweredChoice, ChunkEncoder, FinishReason, choice_object
from serval.wire.tool_choice import NamedToolChoice

_encode = msgspec.json.Encoder().encode


def is_legacy(request: ChatRequest) -> bool:
    """Return True if the answer must have the old form."""
    return request.functions is not None


def with_tools(request: ChatRequest) -> ChatRequest:
    """Convert the request to tools. Raises `InvalidRequestError` naming the field at fault."""
    messages = _messages(request.messages)
    functions = request.functions
    if functions is None:
        if request.function_call not in (None, "none", "auto"):
            raise InvalidRequestError(
                "function_call asks for a call, but there are no functions.", param="function_call"
            )
        return request if messages is request.messages else replace(request, messages=messages)
    if request.tools is not None or request.tool_choice is not None:
        raise InvalidRequestError(
            "'functions' is the deprecated form of 'tools': send one of them, not both.", param="functions"
        )
    return replace(
        request,
        messages=messages,
        tools=[Tool(type="function", function=function) for function in functions],
        tool_choice=_tool_choice(request, functions),
        parallel_tool_calls=False,
    )


def _tool_choice(request: ChatRequest, functions: list[FunctionDeclaration]) -> str | NamedToolChoice | None:
    names = [function.name for function in functions]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidRequestError(
                f"functions[{index}] is the second function named {name!r}; names must differ.",
                param=f"functions[{index}].name",
            )
    choice = request.function_call
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in ("none", "auto"):
            raise InvalidRequestError(
                f"function_call is {choice!r}; it must be 'none', 'auto' or an object that names a function.",
                param="function_call",
            )
        return choice
    if choice.name not in names:
        raise InvalidRequestError(
            f"function_call names the function {choice.name!r}, which is not among the functions:"
            f" {sorted(names)}.",
            param="function_call.name",
        )
    return NamedToolChoice(type="function", function=choice)


def _messages(messages: list[Message]) -> list[Message]:
    if not any(message.role == "function" or message.function_call is not None for message in messages):
        return messages
    converted: list[Message] = []
    open_call: tuple[str, str] | None = None  # id and function name
    for index, message in enumerate(messages):
        if message.function_call is not None:
            if message.role != "assistant" or message.tool_calls is not None:
                raise InvalidRequestError(
                    f"messages[{index}].function_call is only allowed in an assistant message without"
                    " tool_calls.",
                    param=f"messages[{index}].function_call",
                )
            open_call = (f"function_call_{index}", message.function_call.name)
            call = ToolCall(id=open_call[0], function=message.function_call)
            converted.append(replace(message, tool_calls=[call], function_call=None))
        elif message.role == "function":
            if open_call is None or message.name != open_call[1]:
                raise InvalidRequestError(
                    f"messages[{index}] is the result of the function {message.name!r}, but the message"
                    " before it is not an assistant message with a function_call of that name.",
                    param=f"messages[{index}].name",
                )
            converted.append(replace(message, role="tool", tool_call_id=open_call[0], name=None))
            open_call = None
        else:
            converted.append(message)
            open_call = None
    return converted


def legacy_choice_object(choice: AnsweredChoice) -> dict[str, Any]:
    """Return a choice of a whole answer in the old form."""
    made = choice_object(choice)
    calls = made["message"].pop("tool_calls", None)
    if calls:
        made["message"]["function_call"] = calls[0]["function"]
    if choice.finish_reason == "tool_calls":
        made["finish_reason"] = "function_call"
    return made


class LegacyChunkEncoder(ChunkEncoder):
    """Encodes stream chunks in the old form."""

    def tool_call(self, index: int, *, call: int, call_id: str, name: str) -> bytes:
        """Encode the start of the call."""
        return self._chunk(index, _encode({"function_call": {"name": name, "arguments": ""}}))

    def arguments(self, index: int, *, call: int, text: str) -> bytes:
        """Encode a piece of the call's arguments."""
        return self._chunk(index, b'{"function_call":{"arguments":' + _encode(text) + b"}}")

    def finish(self, index: int, reason: FinishReason, *, logprobs: Any = None) -> bytes:
        """Encode the last chunk of a choice."""
        legacy_reason = "function_call" if reason == "tool_calls" else reason
        return self._chunk(index, b"{}", finish_reason=b'"%s"' % legacy_reason.encode(), logprobs=logprobs)
