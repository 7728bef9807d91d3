"""The segment cache never outgrows its bound."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from serval.chat.segment_cache import SegmentCache


@given(st.lists(st.tuples(st.text(max_size=300), st.integers(0, 300)), max_size=60))
def test_size_stays_within_the_capacity(entries: list[tuple[str, int]]) -> None:
    cache = SegmentCache(5000)
    for text, length in entries:
        ids = array("I", range(length))
        cache.put(text, ids)
        assert 0 <= cache.size_bytes <= 5000
    if len(cache) == 0:
        assert cache.size_bytes == 0


def test_the_least_recently_used_goes_first() -> None:
    cache = SegmentCache(4000)
    used, unused = "used", "unused"
    cache.put(unused, array("I", [1]))
    cache.put(used, array("I", [1]))
    for number in range(50):
        assert cache.get(used) is not None
        cache.put(f"other {number}", array("I", [1]))
    assert cache.get(unused) is None


def test_what_is_too_large_is_not_kept() -> None:
    cache = SegmentCache(1000)
    cache.put("a", array("I", range(1000)))
    assert len(cache) == 0
    assert cache.size_bytes == 0
