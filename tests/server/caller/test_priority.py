"""The priority class of a request."""

import pytest

from serval.caller.identity import Identity
from serval.caller.priority import PRIORITIES, priority_of, tier_of
from serval.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("scopes", "requested", "priority"),
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
def test_priority_of_header_can_only_lower_the_keys_class(
    scopes: tuple[str, ...], requested: str | None, priority: str
) -> None:
    assert priority_of(Identity(scopes=frozenset({"inference", *scopes})), requested) == priority


@pytest.mark.parametrize(
    ("scope", "tier", "priority"),
    [
        ("interactive", "auto", "interactive"),
        ("interactive", "scale", "interactive"),
        ("interactive", "priority", "interactive"),
        ("interactive", "default", "default"),
        ("interactive", "flex", "bulk"),
        (None, "auto", "default"),
        (None, "priority", "default"),
        (None, "flex", "bulk"),
        ("bulk", "auto", "bulk"),
        ("bulk", "priority", "bulk"),
    ],
)
def test_priority_of_service_tier_selects_a_class(scope: str | None, tier: str, priority: str) -> None:
    identity = Identity(scopes=frozenset({"inference"} | ({scope} if scope else set())))
    assert priority_of(identity, None, tier) == priority


@pytest.mark.parametrize(("header", "tier"), [("bulk", "priority"), ("interactive", "flex")])
def test_priority_of_takes_the_lower_of_header_and_tier(header: str, tier: str) -> None:
    assert priority_of(Identity(scopes=frozenset({"interactive"})), header, tier) == "bulk"


def test_tier_of_is_the_inverse_of_priority_of() -> None:
    identity = Identity(scopes=frozenset({"interactive"}))
    assert [priority_of(identity, None, tier_of(priority)) for priority in PRIORITIES] == list(PRIORITIES)


def test_priority_of_unknown_header_is_an_error_that_lists_the_classes() -> None:
    with pytest.raises(InvalidRequestError, match="interactive, default, bulk"):
        priority_of(Identity(scopes=frozenset()), "urgent")
