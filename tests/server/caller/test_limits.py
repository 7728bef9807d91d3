"""The limits in force for a key."""

from serval.caller.limits import UNLIMITED, KeyLimits, Limits, default_limits, in_force
from serval.settings import Settings


def test_in_force_own_limits_override_the_defaults() -> None:
    defaults = default_limits(Settings(requests_per_minute=60, tokens_per_minute=1000, tokens_per_day=9))
    own = KeyLimits(requests_per_minute=5, tokens_per_minute=UNLIMITED, concurrent_requests=2)
    assert in_force(own, defaults) == Limits(5, None, 2, 9)
    assert in_force(KeyLimits(), defaults) == defaults


def test_limits_tokens_is_the_smallest_token_limit() -> None:
    assert Limits(tokens_per_minute=5, tokens_per_day=9).tokens == 5
    assert Limits(requests_per_minute=5).tokens is None
    assert Limits().unlimited
