"""`serval.api.answering`: errors in the words of an API; the rest is tested through the endpoints."""

import pytest

from serval.api.answering import named_fields
from serval.errors import InvalidRequestError

FIELDS = {"messages": "input", "response_format": "text.format"}


@pytest.mark.parametrize(
    ("param", "message", "expected"),
    [
        ("messages", "Shorten the messages.", ("input", "Shorten the input.")),
        ("response_format", "in 'response_format': at", ("text.format", "in 'text.format': at")),
        ("tools", "Invalid schema in 'tools'", ("tools", "Invalid schema in 'tools'")),
        (None, "messages", (None, "messages")),
    ],
)
def test_named_fields_renames_the_field_of_an_error(
    param: str | None, message: str, expected: tuple[str | None, str]
) -> None:
    with pytest.raises(InvalidRequestError) as caught, named_fields(FIELDS):
        raise InvalidRequestError(message, param=param)
    assert (caught.value.param, caught.value.message) == expected
