"""Context editing of the Messages API: which edits a request asks for, and what the answer says of them."""

from typing import Any, Final

from msgspec import Struct

from serval.chat.tool_clearing import ClearToolUses
from serval.wire.decode import convert_json, invalid_value
from serval.wire.messages.request import ContextManagement

_CLEAR_TOOL_USES: Final = "clear_tool_uses_20250919"
_TOKENS: Final = "input_tokens"
_USES: Final = "tool_uses"


class _Amount(Struct):
    type: str
    value: int


class _ClearToolUses(Struct):
    trigger: _Amount | None = None
    keep: _Amount | None = None
    clear_at_least: _Amount | None = None
    exclude_tools: list[str] | None = None
    clear_tool_inputs: bool | list[str] | None = None


def clear_tool_uses(given: ContextManagement | None) -> ClearToolUses | None:
    """Return the edit that clears results of tools; None without one.

    Edits of other types have no effect: the chat template decides if thinking is rendered.
    Raises `InvalidRequestError`, naming the field at fault; a second edit of the type is one.
    """
    found: ClearToolUses | None = None
    for index, edit in enumerate((given and given.edits) or ()):
        if edit.get("type") != _CLEAR_TOOL_USES:
            continue
        path = f"context_management.edits[{index}]"
        if found is not None:
            raise invalid_value(f"a second edit of type {_CLEAR_TOOL_USES!r}", path, code="invalid_value")
        found = _checked(convert_json(edit, _ClearToolUses, below=path), path)
    return found


def _checked(edit: _ClearToolUses, path: str) -> ClearToolUses:
    defaults = ClearToolUses()
    by_uses = edit.trigger is not None and edit.trigger.type == _USES
    trigger = _amount(edit.trigger, f"{path}.trigger", allowed=(_TOKENS, _USES))
    keep = _amount(edit.keep, f"{path}.keep", allowed=(_USES,))
    at_least = _amount(edit.clear_at_least, f"{path}.clear_at_least", allowed=(_TOKENS,))
    inputs = edit.clear_tool_inputs
    return ClearToolUses(
        trigger_tokens=None if by_uses else (defaults.trigger_tokens if trigger is None else trigger),
        trigger_uses=trigger if by_uses else None,
        keep=defaults.keep if keep is None else keep,
        clear_at_least=at_least or 0,
        exclude=frozenset(edit.exclude_tools or ()),
        inputs_of=None if inputs is True else frozenset(inputs or ()),
    )


def _amount(given: _Amount | None, path: str, *, allowed: tuple[str, ...]) -> int | None:
    if given is None:
        return None
    if given.type not in allowed:
        raise invalid_value(
            f"the type is {given.type!r}; it must be {' or '.join(map(repr, allowed))}",
            f"{path}.type",
            code="invalid_value",
        )
    if given.value < 0:
        raise invalid_value("it must not be negative", f"{path}.value", code="invalid_value")
    return given.value


def applied_edits(*, cleared_uses: int, cleared_tokens: int) -> dict[str, Any]:
    """Return the answer's `context_management`; without cleared uses no edit was applied."""
    edit = {
        "type": _CLEAR_TOOL_USES,
        "cleared_tool_uses": cleared_uses,
        "cleared_input_tokens": cleared_tokens,
    }
    return {"applied_edits": [edit] if cleared_uses else []}
