"""Items of the Responses API as messages of Chat Completions.

Items that the model wrote (messages, calls, reasoning) are one turn until something else follows them. A
result is linked to its call by `call_id` and stands behind the turn of its call, wherever the client put it:
clients insert messages between a call and its result. Text of a turn comes before its calls, because the
template has no other place for it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct, field

from serval.errors import InvalidRequestError
from serval.grammar.input_grammar import CUSTOM_INPUT
from serval.wire.body_size import check_arguments_size
from serval.wire.chat_request import ContentPart, FunctionCall, Message, Tool, ToolCall
from serval.wire.decode import missing_parameter
from serval.wire.omitted_parts import NonTextParts, omit_parts
from serval.wire.responses.items import (
    AgentMessageItem,
    CallItem,
    CustomCallItem,
    Item,
    LocalShellCallItem,
    LocalShellOutputItem,
    MessageItem,
    OutputItem,
    Part,
    PlacedItem,
    ReasoningItem,
    ToolSearchCallItem,
    ToolSearchOutputItem,
)
from serval.wire.responses.tools import (
    LOCAL_SHELL,
    TOOL_SEARCH,
    LoadedTools,
    qualified_name,
)

# Text in the prompt that declares a tool which a search has loaded.
Declare = Callable[[Tool], str]

_CalledItem = CallItem | CustomCallItem | ToolSearchCallItem | LocalShellCallItem
_OutputItem = OutputItem | ToolSearchOutputItem | LocalShellOutputItem

_ROLES: Final = ("user", "assistant", "system", "developer")
_TEXT_PARTS: Final = frozenset({"input_text", "output_text", "text", "summary_text"})


class _Turn(Struct):
    """A turn of the model, and the results of its calls by their ids."""

    texts: list[ContentPart] = field(default_factory=list)
    # A message may be an empty text.
    has_message: bool = False
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: dict[str, Message] = field(default_factory=dict)


class _OpenCall(Struct, frozen=True):
    """A call without a result so far."""

    id: str
    turn: _Turn
    path: str
    # A call that was cut has no result.
    needs_result: bool


class _Conversation(Struct):
    """A conversation as far as it has been read."""

    declare: Declare
    loaded: LoadedTools
    blocks: list[Message | _Turn] = field(default_factory=list)
    # The turn that the next item of the model continues.
    turn: _Turn | None = None
    open_calls: dict[str, _OpenCall] = field(default_factory=dict)
    # Parts that are not text, with their paths.
    others: list[tuple[ContentPart, str]] = field(default_factory=list)

    def current_turn(self) -> _Turn:
        if self.turn is None:
            self.turn = _Turn()
            self.blocks.append(self.turn)
        return self.turn


def conversation_messages(
    items: Sequence[PlacedItem],
    *,
    instructions: str | None,
    non_text_parts: NonTextParts,
    loaded: LoadedTools,
    declare: Declare,
) -> list[Message]:
    """Convert the items. Tools that searches have loaded are added to `loaded`.

    Raises `InvalidRequestError` with the path of the field at fault.
    """
    made = _Conversation(declare, loaded)
    if instructions:
        made.blocks.append(Message(role="system", content=instructions))
    for placed in items:
        _add(made, placed.item, placed.path)
    _check_answered(made.open_calls.values())
    messages = _joined(made.blocks)
    arguments = [call.function.arguments for message in messages for call in message.tool_calls or ()]
    check_arguments_size([text for text in arguments if isinstance(text, str)], param="input")
    omit_parts(messages, non_text_parts)
    _check_text(messages, made.others)
    return messages


def _check_answered(open_calls: Iterable[_OpenCall]) -> None:
    for call in open_calls:
        if call.needs_result:
            raise InvalidRequestError(
                f"No tool output found for the call {call.id!r} at {call.path}: send its output as an item"
                " with this call_id.",
                param=call.path,
            )


def _add(made: _Conversation, item: Item, path: str) -> None:
    match item:
        case MessageItem():
            _add_message(made, item, path)
        case AgentMessageItem():
            _add_message(made, MessageItem("user", item.content), path)
        case ReasoningItem():
            turn = made.current_turn()
            turn.reasoning += [part.text for part in item.content or () if part.text]
        case OutputItem() | ToolSearchOutputItem() | LocalShellOutputItem():
            _add_output(made, item, path)
        case _:
            _add_called(made, item, path)


def _add_called(made: _Conversation, item: _CalledItem, path: str) -> None:
    match item:
        case CallItem():
            function = FunctionCall(qualified_name(item.namespace, item.name), item.arguments)
        case CustomCallItem():
            function = FunctionCall(qualified_name(item.namespace, item.name), {CUSTOM_INPUT: item.input})
        case ToolSearchCallItem():
            function = FunctionCall(TOOL_SEARCH, bytes(item.arguments).decode())
        case LocalShellCallItem():
            function = FunctionCall(LOCAL_SHELL, _shell_arguments(item.action))
    if isinstance(item, ToolSearchCallItem) and item.call_id is None:
        return  # run by a server of another provider
    call_id = _call_id(item, path)
    if call_id in made.open_calls:
        raise InvalidRequestError(
            f"{path}.call_id is {call_id!r}, as that of the call at {made.open_calls[call_id].path}, which"
            " has no output yet; ids of calls must differ.",
            param=f"{path}.call_id",
        )
    turn = made.current_turn()
    turn.calls.append(ToolCall(id=call_id, function=function))
    call = made.open_calls[call_id] = _OpenCall(call_id, turn, path, needs_result=item.status != "incomplete")
    if isinstance(item, LocalShellCallItem) and item.id is not None:
        # Its output may name either id.
        made.open_calls.setdefault(item.id, call)


def _add_output(made: _Conversation, item: _OutputItem, path: str) -> None:
    content: str | list[ContentPart]
    if isinstance(item, ToolSearchOutputItem):
        loaded = made.loaded.add(item.tools, f"{path}.tools")
        if item.call_id is None:
            return
        content = "\n\n".join(map(made.declare, loaded))
    elif isinstance(item.output, str):
        content = item.output
    else:
        content = _parts(made, item.output, f"{path}.output")
    call_id = _call_id(item, path)
    call = made.open_calls.get(call_id)
    if call is None:
        raise InvalidRequestError(
            f"No tool call found for the output at {path}, whose call_id is {call_id!r}: an output follows"
            " the item of its call, once for each call.",
            param=f"{path}.call_id",
        )
    for name in [name for name, same in made.open_calls.items() if same is call]:
        del made.open_calls[name]
    call.turn.results[call.id] = Message(role="tool", tool_call_id=call.id, content=content)
    made.turn = None


def _add_message(made: _Conversation, item: MessageItem, path: str) -> None:
    if item.role not in _ROLES:
        raise InvalidRequestError(
            f"{path}.role is {item.role!r}; it must be one of {', '.join(map(repr, _ROLES))}.",
            param=f"{path}.role",
        )
    if item.content is None:
        raise missing_parameter(f"{path}.content")
    content = item.content
    parts = (
        [ContentPart(type="text", text=content)]
        if isinstance(content, str)
        else _parts(made, content, f"{path}.content")
    )
    if item.role == "assistant":
        turn = made.current_turn()
        turn.texts += parts
        turn.has_message = True
        return
    made.turn = None
    made.blocks.append(Message(role=item.role, content=content if isinstance(content, str) else parts))


def _parts(made: _Conversation, parts: Sequence[Part], path: str) -> list[ContentPart]:
    converted = []
    for index, part in enumerate(parts):
        below = f"{path}[{index}]"
        if part.type in _TEXT_PARTS:
            made_part = ContentPart(type="text", text=_required_text(part.text, f"{below}.text"))
        elif part.type == "refusal":
            made_part = ContentPart(type="refusal", refusal=_required_text(part.refusal, f"{below}.refusal"))
        else:
            made_part = ContentPart(type=part.type)
            made.others.append((made_part, below))
        converted.append(made_part)
    return converted


def _required_text(text: str | None, path: str) -> str:
    if text is None:
        raise InvalidRequestError(f"{path} must be a string.", param=path)
    return text


def _call_id(item: _CalledItem | _OutputItem, path: str) -> str:
    found = item.call_id
    if found is None and isinstance(item, LocalShellCallItem | LocalShellOutputItem):
        found = item.id
    if found is None:
        raise missing_parameter(f"{path}.call_id")
    return found


def _shell_arguments(action: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that the model wrote: without what the answer added to them."""
    return {
        name: value for name, value in action.items() if name != "type" and value is not None and value != {}
    }


def _joined(blocks: Sequence[Message | _Turn]) -> list[Message]:
    messages: list[Message] = []
    for block in blocks:
        if isinstance(block, Message):
            messages.append(block)
        elif block.has_message or block.calls:
            messages.append(_turn_message(block))
            messages += [block.results[call.id] for call in block.calls if call.id in block.results]
    return messages


def _turn_message(turn: _Turn) -> Message:
    content: str | list[ContentPart] | None = None
    if turn.has_message:
        only = turn.texts[0] if len(turn.texts) == 1 else None
        content = only.text if only is not None and only.text is not None else turn.texts
    return Message(
        role="assistant",
        content=content,
        tool_calls=turn.calls or None,
        reasoning_content="\n".join(turn.reasoning) or None,
    )


def _check_text(messages: Sequence[Message], others: Sequence[tuple[ContentPart, str]]) -> None:
    """Raise `InvalidRequestError` if a part is left that is not text."""
    if not others:
        return
    left = {id(part) for message in messages if isinstance(message.content, list) for part in message.content}
    for part, path in others:
        if id(part) in left:
            raise InvalidRequestError(
                f"{path} has type {part.type!r}; this model takes text only: send parts of type"
                " 'input_text'.",
                param=f"{path}.type",
            )
