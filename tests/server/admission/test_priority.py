"""Which class a request gets."""

import pytest

from serval.admission.priority import priority_of
from serval.auth.identity import Identity
from serval.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("scopes", "asked", "priority"),
    [
        ((), None, "default"),
        ((), "bulk", "bulk"),
        ((), "interactive", "default"),
        (("interactive",), None, "interactive"),
        (("interactive",), "default", "default"),
        (("interactive",), "bulk", "bulk"),
        (("bulk",), None, "bulk"),
        (("bulk",), "interactive", "bulk"),
    ],
)
def test_a_request_may_ask_for_less_than_its_key_has(
    scopes: tuple[str, ...], asked: str | None, priority: str
) -> None:
    assert priority_of(Identity(scopes=frozenset({"inference", *scopes})), asked) == priority


def test_a_header_that_names_no_class_is_an_error_that_names_them() -> None:
    with pytest.raises(InvalidRequestError, match="interactive, default, bulk"):
        priority_of(Identity(scopes=frozenset()), "urgent")
