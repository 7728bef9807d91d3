"""Messages of the Messages API as those of Chat Completions.

A user message may hold tool results and text; here each result is a message of its own. Messages that follow
each other with the same role are one turn: an assistant's become one message, and all results of a user's
come before its text, because results must follow their calls.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from msgspec import Struct

from serval.errors import InvalidRequestError
from serval.wire.chat_request import ContentPart, FunctionCall, Message, ToolCall
from serval.wire.decode import missing_parameter
from serval.wire.messages.request import Block, InputMessage
from serval.wire.omitted_parts import NonTextParts, omit_parts

# Text in place of a reference to the tool of this name.
Declare = Callable[[str], str]

_ROLES: Final = ("user", "assistant", "system")
# Dropped: thoughts that cannot be read, and what servers of other models wrote for their own tools.
_DROPPED: Final = frozenset({"redacted_thinking", "server_tool_use", "mcp_tool_use"})
_FOREIGN_RESULT: Final = "_tool_result"
# Claude Code's first system block; it may differ with each request, and is not meant for the model.
_BILLING: Final = "x-anthropic-billing-header:"


class Conversation(Struct, frozen=True):
    """Messages, and for each of them the paths of its content's parts in the request."""

    messages: list[Message]
    places: list[Sequence[str]]

    def add(self, message: Message, places: Sequence[str]) -> None:
        """Add a message; `places` has one path for each part of its content, or one for a string."""
        self.messages.append(message)
        self.places.append(places)


def system_messages(system: str | list[Block] | None, *, with_billing: bool) -> list[Message]:
    """Return the instructions as one system message, or none; `with_billing`: with Claude Code's block."""
    if system is None:
        return []
    if isinstance(system, str):
        return [Message(role="system", content=system)]
    parts: list[ContentPart] = []
    for index, block in enumerate(system):
        part = _text_part(block, f"system[{index}]")
        if part.type != "text":
            raise _not_text(part.type, f"system[{index}]")
        if with_billing or not (part.text or "").startswith(_BILLING):
            parts.append(part)
    return [Message(role="system", content=parts)] if parts else []


def chat_messages(
    messages: Sequence[InputMessage], *, declare: Declare, non_text_parts: NonTextParts
) -> list[Message]:
    """Convert the messages. Raises `InvalidRequestError` with the path of the field at fault."""
    if not messages:
        raise InvalidRequestError("'messages' is empty; send at least one message.", param="messages")
    made = Conversation([], [])
    open_calls: dict[str, str] = {}
    for role, grouped in groupby(enumerate(messages), key=lambda item: item[1].role):
        run = list(grouped)
        if role not in _ROLES:
            raise _unknown_role(role, run[0][0])
        if role != "user":
            _check_answered(open_calls)
        if role == "user":
            _add_user(made, run, open_calls, declare)
            _check_answered(open_calls)
        elif role == "assistant":
            open_calls = _add_assistant(made, run)
        else:
            for index, message in run:
                made.add(*_content_of(message, index))
    _check_answered(open_calls)
    omit_parts(made.messages, non_text_parts)
    _check_text(made)
    return made.messages


def _add_user(
    made: Conversation,
    run: Iterable[tuple[int, InputMessage]],
    open_calls: dict[str, str],
    declare: Declare,
) -> None:
    """Add the results of a user's turn, and then its other content. Answered calls are closed."""
    rest = Conversation([], [])
    for index, message in run:
        if isinstance(message.content, str):
            rest.add(*_content_of(message, index))
            continue
        others: list[tuple[str, Block]] = []
        for place, block in _blocks(message.content, index):
            if block.type == "tool_result":
                made.add(*_result(block, place, open_calls, declare))
            else:
                others.append((place, block))
        # A message of results alone has no text of its own.
        if others or not message.content:
            parts = [_text_part(block, place) for place, block in others]
            rest.add(Message(role="user", content=list(parts)), [place for place, _ in others])
    for each, places in zip(rest.messages, rest.places, strict=True):
        made.add(each, places)


def _result(
    block: Block, place: str, open_calls: dict[str, str], declare: Declare
) -> tuple[Message, Sequence[str]]:
    call_id = _required(block.tool_use_id, f"{place}.tool_use_id")
    if call_id not in open_calls:
        raise InvalidRequestError(
            f"{place}.tool_use_id is {call_id!r}, which answers no tool_use block of the assistant message"
            " before it; a result must follow the message that called the tool, once for each call.",
            param=f"{place}.tool_use_id",
        )
    del open_calls[call_id]
    content = block.content
    if content is None or isinstance(content, str):
        return Message(role="tool", tool_call_id=call_id, content=content or ""), [place]
    if isinstance(content, dict):
        raise InvalidRequestError(
            f"{place}.content must be a string or a list of blocks.",
            param=f"{place}.content",
            code="invalid_type",
        )
    parts: list[ContentPart] = []
    places = [f"{place}.content[{index}]" for index in range(len(content))]
    for below, inner in zip(places, content, strict=True):
        if inner.type == "tool_reference":
            name = _required(inner.tool_name, f"{below}.tool_name")
            parts.append(ContentPart(type="text", text=declare(name)))
        else:
            parts.append(_text_part(inner, below))
    return Message(role="tool", tool_call_id=call_id, content=parts), places


def _add_assistant(made: Conversation, run: Iterable[tuple[int, InputMessage]]) -> dict[str, str]:
    """Add the assistant's turn as one message; return the paths of its calls by id."""
    parts: list[ContentPart] = []
    places: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    open_calls: dict[str, str] = {}
    for index, message in run:
        if isinstance(message.content, str):
            parts.append(ContentPart(type="text", text=message.content))
            places.append(f"messages[{index}].content")
            continue
        for place, block in _blocks(message.content, index):
            if block.type == "tool_use":
                call = _call(block, place)
                if call.id in open_calls:
                    raise InvalidRequestError(
                        f"{place}.id is {call.id!r}, as that of another call of the turn; ids must differ.",
                        param=f"{place}.id",
                    )
                open_calls[call.id] = place
                calls.append(call)
            elif block.type == "thinking":
                thoughts += [block.thinking] if block.thinking else []
            elif block.type not in _DROPPED and not block.type.endswith(_FOREIGN_RESULT):
                parts.append(_text_part(block, place))
                places.append(place)
    # An empty text, because a turn of nothing but thoughts is a turn as well.
    turn = Message(
        role="assistant",
        content=parts or "",
        tool_calls=calls or None,
        reasoning_content="\n".join(thoughts) or None,
    )
    made.add(turn, places or [""])
    return open_calls


def _call(block: Block, place: str) -> ToolCall:
    name = _required(block.name, f"{place}.name")
    arguments: dict[str, Any] = _required(block.input, f"{place}.input")
    return ToolCall(
        id=_required(block.id, f"{place}.id"), function=FunctionCall(name=name, arguments=arguments)
    )


def _content_of(message: InputMessage, index: int) -> tuple[Message, Sequence[str]]:
    """Return a message of text, and the paths of its parts."""
    if isinstance(message.content, str):
        return Message(role=message.role, content=message.content), [f"messages[{index}].content"]
    blocks = list(_blocks(message.content, index))
    parts = [_text_part(block, place) for place, block in blocks]
    return Message(role=message.role, content=parts), [place for place, _ in blocks]


def _blocks(content: Sequence[Block], index: int) -> Iterator[tuple[str, Block]]:
    for number, block in enumerate(content):
        yield f"messages[{index}].content[{number}]", block


def _text_part(block: Block, place: str) -> ContentPart:
    """Return the block as a part; only the type of one that is not text."""
    if block.type == "text":
        return ContentPart(type="text", text=_required(block.text, f"{place}.text"))
    return ContentPart(type=block.type)


def _required(value: Any, path: str) -> Any:
    if value is None:
        raise missing_parameter(path)
    return value


def _check_answered(open_calls: dict[str, str]) -> None:
    for call_id, place in open_calls.items():
        raise InvalidRequestError(
            f"{place} is a tool_use block without a result: the next message must be the user's, with a"
            f" tool_result block whose tool_use_id is {call_id!r}.",
            param=place,
        )


def _check_text(made: Conversation) -> None:
    for message, places in zip(made.messages, made.places, strict=True):
        if message.content is None or isinstance(message.content, str):
            continue
        for part, place in zip(message.content, places, strict=True):
            if part.type != "text":
                raise _not_text(part.type, place)


def _not_text(kind: str, place: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{place} has type {kind!r}, which is not served here; this model takes text only: send blocks of"
        " type 'text'.",
        param=f"{place}.type",
    )


def _unknown_role(role: str, index: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"messages[{index}].role is {role!r}; it must be one of {', '.join(map(repr, _ROLES))}.",
        param=f"messages[{index}].role",
    )
