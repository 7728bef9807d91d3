"""Buckets: one limit per minute."""

from serval.limits.bucket import UNIT, Bucket


def bucket_of(limit: int) -> Bucket:
    bucket = Bucket(0)
    bucket.limit = limit
    return bucket


def test_wait_ms_is_exact_to_the_millisecond() -> None:
    bucket = bucket_of(7)
    bucket.debit(7)
    wait_ms = bucket.wait_ms(2)
    assert wait_ms == 17143  # 2 of 7 a minute
    bucket.drain(wait_ms - 1)
    assert bucket.wait_ms(2) == 1
    bucket.drain(wait_ms)
    assert bucket.wait_ms(2) == 0
    assert bucket.remaining() == 2


def test_remaining_and_reset_ms_follow_the_level() -> None:
    bucket = bucket_of(60)
    bucket.debit(10)
    assert (bucket.remaining(), bucket.reset_ms()) == (50, 10_000)
    bucket.drain(9_999)
    assert (bucket.remaining(), bucket.reset_ms()) == (59, 1)
    bucket.drain(10_000)
    assert (bucket.remaining(), bucket.reset_ms()) == (60, 0)


def test_correct_refund_is_exact() -> None:
    bucket = bucket_of(100)
    mark = bucket.debit(90)
    bucket.correct(90, 13, mark)
    assert bucket.level == 13 * UNIT


def test_correct_refunds_nothing_that_has_drained() -> None:
    bucket = bucket_of(100)
    mark = bucket.debit(100)
    bucket.drain(60_000)
    bucket.debit(100)
    # The first debit has drained; refunding it would admit 200 at once.
    bucket.correct(100, 0, mark)
    assert bucket.remaining() == 0


def test_correct_charges_use_beyond_the_debit() -> None:
    bucket = bucket_of(60)
    mark = bucket.debit(10)
    bucket.correct(10, 130, mark)
    assert (bucket.remaining(), bucket.wait_ms(1)) == (0, 71_000)


def test_limit_change_keeps_the_use() -> None:
    bucket = bucket_of(10)
    bucket.debit(10)
    bucket.limit = 30
    assert bucket.remaining() == 20
    bucket.limit = 5
    assert (bucket.remaining(), bucket.wait_ms(1)) == (0, 72_000)
