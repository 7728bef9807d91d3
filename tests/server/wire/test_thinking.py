"""The switch for thinking, for templates that read it under one name or the other, or not at all."""

from typing import Any

import msgspec
import pytest

from serval.wire.chat_request import ChatRequest
from serval.wire.thinking import template_options


@pytest.mark.parametrize("variable", ["enable_thinking", "thinking"])
@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, None),
        ({"enable_thinking": True}, True),
        ({"enable_thinking": False}, False),
        ({"thinking": {"type": "enabled"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, None),
        ({"enable_thinking": True, "reasoning_effort": "none"}, True),
    ],
)
def test_template_options_set_the_switch_of_the_template(
    variable: str, fields: dict[str, Any], asked: bool | None
) -> None:
    request = msgspec.convert({"model": "m", "messages": [], **fields}, ChatRequest)
    expected = {} if asked is None else {variable: asked}
    assert template_options(request, {variable, "other"}) == expected
    assert template_options(request, {"other"}) == {}


def test_template_options_prefer_the_variable_of_the_template() -> None:
    request = ChatRequest("m", [], chat_template_kwargs={"thinking": True, "x": 1}, enable_thinking=False)
    assert template_options(request, {"thinking"}) == {"thinking": True, "x": 1}
    assert template_options(request, set()) == {"x": 1}
