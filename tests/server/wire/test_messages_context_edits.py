"""Edits that a request of the Messages API asks for."""

from typing import Any

import pytest

from serval.chat.tool_clearing import ClearToolUses
from serval.errors import InvalidRequestError
from serval.wire.messages.context_edits import applied_edits, clear_tool_uses
from serval.wire.messages.request import ContextManagement

TYPE = "clear_tool_uses_20250919"


def edit(**fields: Any) -> ClearToolUses | None:
    return clear_tool_uses(ContextManagement([{"type": TYPE, **fields}]))


def test_edit_has_the_defaults_of_the_api() -> None:
    assert edit() == ClearToolUses(trigger_tokens=100_000, keep=3)
    assert edit(trigger=None, keep=None, exclude_tools=None, clear_tool_inputs=None) == ClearToolUses()


def test_edit_takes_all_fields() -> None:
    found = edit(
        trigger={"type": "input_tokens", "value": 30_000},
        keep={"type": "tool_uses", "value": 0},
        clear_at_least={"type": "input_tokens", "value": 5_000},
        exclude_tools=["memory"],
        clear_tool_inputs=["read"],
    )
    assert found == ClearToolUses(
        trigger_tokens=30_000,
        keep=0,
        clear_at_least=5_000,
        exclude=frozenset({"memory"}),
        inputs_of=frozenset({"read"}),
    )


def test_edit_can_be_triggered_by_uses() -> None:
    found = edit(trigger={"type": "tool_uses", "value": 9}, clear_tool_inputs=True)
    assert found == ClearToolUses(trigger_tokens=None, trigger_uses=9, inputs_of=None)


@pytest.mark.parametrize(
    "given",
    [
        None,
        ContextManagement(),
        ContextManagement([]),
        ContextManagement([{"type": "clear_thinking_20251015", "keep": "all"}, {"type": "compact_20260112"}]),
    ],
    ids=["no field", "no list", "empty", "others"],
)
def test_other_edits_have_no_effect(given: ContextManagement | None) -> None:
    assert clear_tool_uses(given) is None


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"trigger": {"type": "words", "value": 1}}, "trigger.type"),
        ({"trigger": {"type": "input_tokens"}}, "trigger.value"),
        ({"keep": {"type": "input_tokens", "value": 1}}, "keep.type"),
        ({"keep": {"type": "tool_uses", "value": -1}}, "keep.value"),
        ({"clear_at_least": {"type": "tool_uses", "value": 1}}, "clear_at_least.type"),
        ({"exclude_tools": "memory"}, "exclude_tools"),
        ({"clear_tool_inputs": 1}, "clear_tool_inputs"),
    ],
)
def test_bad_edit_is_refused_with_its_place(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        edit(**fields)
    assert caught.value.param == f"context_management.edits[0].{path}"


def test_second_edit_of_the_type_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        clear_tool_uses(ContextManagement([{"type": TYPE}, {"type": "other"}, {"type": TYPE}]))
    assert caught.value.param == "context_management.edits[2]"


def test_answer_names_the_edit_only_if_it_cleared_something() -> None:
    assert applied_edits(cleared_uses=0, cleared_tokens=0) == {"applied_edits": []}
    assert applied_edits(cleared_uses=2, cleared_tokens=50) == {
        "applied_edits": [{"type": TYPE, "cleared_tool_uses": 2, "cleared_input_tokens": 50}]
    }
