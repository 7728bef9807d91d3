"""The segment cache never outgrows its bound."""

import sys
from array import array

import msgspec
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


def test_an_entry_gives_back_what_it_was_counted_as() -> None:
    cache = SegmentCache(6000)
    grows = "\u00e9" * 150
    cache.put(grows, array("I", [1]))
    assert cache.get(grows) is not None
    before = sys.getsizeof(grows)
    msgspec.json.encode(grows)  # keeps its UTF-8 in the string
    assert sys.getsizeof(grows) > before
    others = [f"other {number:04}" for number in range(60)]
    for text in others:
        cache.put(text, array("I", [1]))
    assert cache.get(grows) is None
    fresh = SegmentCache(6000)
    for text in others:
        fresh.put(text, array("I", [1]))
    assert (len(cache), cache.size_bytes) == (len(fresh), fresh.size_bytes)
