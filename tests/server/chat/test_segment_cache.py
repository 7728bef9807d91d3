"""Bound and eviction of the segment cache."""

import sys
from array import array

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from serval.chat.segment_cache import SegmentCache


@given(st.lists(st.tuples(st.text(max_size=300), st.integers(0, 300)), max_size=60))
def test_segment_cache_stays_within_capacity(entries: list[tuple[str, int]]) -> None:
    cache = SegmentCache(5000)
    for text, length in entries:
        ids = array("I", range(length))
        cache.put(text, ids)
        assert 0 <= cache.size_bytes <= 5000
    if len(cache) == 0:
        assert cache.size_bytes == 0


def test_segment_cache_evicts_least_recently_used() -> None:
    cache = SegmentCache(4000)
    used, unused = "used", "unused"
    cache.put(unused, array("I", [1]))
    cache.put(used, array("I", [1]))
    for number in range(50):
        assert cache.get(used) is not None
        cache.put(f"other {number}", array("I", [1]))
    assert cache.get(unused) is None


def test_segment_cache_does_not_keep_too_large_entry() -> None:
    cache = SegmentCache(1000)
    cache.put("a", array("I", range(1000)))
    assert len(cache) == 0
    assert cache.size_bytes == 0


def test_segment_cache_releases_size_counted_for_entry() -> None:
    cache = SegmentCache(6000)
    grows = "\u00e9" * 150
    cache.put(grows, array("I", [1]))
    assert cache.get(grows) is not None
    before = sys.getsizeof(grows)
    msgspec.json.encode(grows)  # caches its UTF-8 form in the string
    assert sys.getsizeof(grows) > before
    others = [f"other {number:04}" for number in range(60)]
    for text in others:
        cache.put(text, array("I", [1]))
    assert cache.get(grows) is None
    fresh = SegmentCache(6000)
    for text in others:
        fresh.put(text, array("I", [1]))
    assert (len(cache), cache.size_bytes) == (len(fresh), fresh.size_bytes)
