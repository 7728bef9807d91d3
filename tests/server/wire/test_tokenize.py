"""Bodies of `/tokenize` and `/detokenize` as pydantic validates them."""

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from serval.errors import InvalidRequestError
from serval.wire.tokenize import DetokenizeRequest, TokenizeRequest

WRONG: dict[str, tuple[type[BaseModel], str, Any, str]] = {
    "tokens": (DetokenizeRequest, "tokens", [1, "x", "x"], "tokens[1]"),
    "messages": (TokenizeRequest, "messages", [None, None], "messages[0]"),
    "tools": (TokenizeRequest, "tools", [None, None], "tools[0]"),
    "tool_choice": (TokenizeRequest, "tool_choice", [None, None], "tool_choice"),
}


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("case", WRONG)
def test_validation_stops_at_the_first_invalid_item(case: str, raw: bool) -> None:
    # Pydantic would collect an error for each of the millions that fit in a body.
    kind, field, value, param = WRONG[case]
    given = msgspec.Raw(msgspec.json.encode(value)) if raw else value
    with pytest.raises(InvalidRequestError) as refused:
        kind.model_validate({"model": "m", field: given})
    assert refused.value.param == param


@pytest.mark.parametrize("field", ["messages", "tools", "tool_choice"])
def test_null_is_an_absent_field(field: str) -> None:
    for null in (None, msgspec.Raw(b"null")):
        assert getattr(TokenizeRequest.model_validate({"model": "m", field: null}), field) is None
