"""Token buckets and the watch over the writing direction, with a clock that is a number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from derp.buckets import TokenBucket
from derp.write_watch import WriteWatch


def test_burst_then_rate() -> None:
    bucket = TokenBucket(per_second=10, burst=3, now=0.0)
    assert [bucket.take(1, 0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(1, 0.09)
    assert bucket.take(1, 0.1)
    assert [bucket.take(1, 100.0) for _ in range(4)] == [True, True, True, False]


def test_debt_is_paid_in_time() -> None:
    bucket = TokenBucket(per_second=100, burst=50, now=0.0)
    assert bucket.spend(50, 0.0) == 0
    assert bucket.spend(200, 0.0) == 2.0
    assert bucket.spend(0, 1.0) == 1.0
    assert bucket.spend(0, 2.0) == 0


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 2000)), max_size=40),
    st.integers(1, 1000),
    st.integers(1, 1000),
)
def test_whoever_waits_as_told_keeps_the_rate(
    sends: list[tuple[float, int]], per_second: int, burst: int
) -> None:
    bucket = TokenBucket(per_second, burst, 0.0)
    now, sent, largest = 0.0, 0, 0
    for pause, size in sends:
        now += pause
        now += bucket.spend(size, now)
        sent += size
        largest = max(largest, size)
        assert sent <= burst + per_second * now + largest + 1e-6


def test_a_clock_that_stands_still_gives_nothing() -> None:
    bucket = TokenBucket(per_second=10, burst=1, now=5.0)
    assert bucket.take(1, 5.0)
    assert not bucket.take(1, 4.0)
    assert not bucket.take(1, 5.05)


def test_keep_alive_counts_from_the_last_output() -> None:
    watch = WriteWatch(keep_alive_s=60, now=100.0)
    assert watch.next_timeout(10) == 160.0
    watch.sent(130.0)
    assert not watch.is_keep_alive_due(160.0)
    assert watch.next_timeout(10) == 190.0
    assert watch.is_keep_alive_due(190.0)


def test_reader_that_takes_nothing_has_stalled() -> None:
    watch = WriteWatch(keep_alive_s=60, now=0.0)
    watch.blocked(unsent=1000, now=5.0)
    assert watch.next_timeout(10) == 15.0
    assert not watch.has_stalled(1000, 10, 14.9)
    assert watch.has_stalled(1000, 10, 15.0)
    assert not watch.is_keep_alive_due(100.0)  # it is not a keep-alive that is missing


def test_slow_reader_has_not_stalled() -> None:
    watch = WriteWatch(keep_alive_s=60, now=0.0)
    watch.blocked(unsent=1000, now=0.0)
    assert not watch.has_stalled(999, 10, 10.0)
    assert watch.next_timeout(10) == 20.0
    assert watch.has_stalled(999, 10, 20.0)


def test_reader_that_caught_up_is_forgotten() -> None:
    watch = WriteWatch(keep_alive_s=60, now=0.0)
    watch.blocked(unsent=1000, now=0.0)
    watch.unblocked()
    assert not watch.has_stalled(1000, 10, 30.0)
    assert watch.next_timeout(10) == 60.0
