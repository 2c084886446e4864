"""Retries, dead letters and redriving by a clock that is moved by hand (15d): days pass in no time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clocks import ManualClock

import pylog
from pylog.embedded.engine import EmbeddedEngine

EVER = 1e6


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock()
    clock.now = 4e9  # later than the log's own clock
    return clock


@pytest.fixture
def engine(tmp_path: Path, clock: ManualClock) -> Iterator[pylog.Engine]:
    with EmbeddedEngine(tmp_path / "data", clock=clock) as engine:
        yield engine


def fail(jobs: pylog.Queue, error: Exception | None = None) -> None:
    """Have the next delivery fail."""
    with pytest.raises(type(error or OSError())):
        with taken(jobs):
            raise error or OSError("no answer")


def taken(jobs: pylog.Queue) -> pylog.Delivery:
    delivery = jobs.get(0)
    assert delivery is not None
    return delivery


def test_15d_the_whole_schedule_of_a_failing_record_is_seen_in_no_time(
    engine: pylog.Engine, clock: ManualClock
) -> None:
    retry = pylog.Retry.exponential(60.0, factor=10, max_delay=86_400.0, jitter=0.0)
    jobs = engine.queue("jobs", retry=retry, max_deliveries=5)
    jobs.put(b"a", headers={"kind": b"x"})
    for attempt, delay in enumerate([60.0, 600.0, 6000.0, 60_000.0], 1):
        assert taken_count(jobs) == attempt
        assert jobs.source.next_due() == clock.time_ns() + round(delay * 1e9)
        clock.now += delay - 0.001
        assert jobs.get(0) is None
        clock.now += 0.001
    fail(jobs)
    assert jobs.get(0) is None
    (dead,) = jobs.dead_letters
    assert (dead.reason, dead.attempts, dead.exception) == ("max_deliveries", 5, "builtins.OSError")
    clock.now += EVER
    assert jobs.get(0) is None


def taken_count(jobs: pylog.Queue) -> int:
    """Have the next delivery fail, and return which attempt it was."""
    delivery = taken(jobs)
    with pytest.raises(OSError), delivery:
        raise OSError("no answer")
    return delivery.delivery_count


def test_15d_a_policy_that_gives_up_buries_the_record_and_says_why(
    engine: pylog.Engine, clock: ManualClock
) -> None:
    jobs = engine.queue("jobs", retry=pylog.Retry.fixed(100.0, max_elapsed=150.0, give_up_on=ValueError))
    jobs.put(b"bad")
    fail(jobs, ValueError("no such order"))
    jobs.put(b"slow", delay=1000.0)
    clock.now += 1000.0
    fail(jobs)  # 100 s of 150 since it could be delivered first
    clock.now += 100.0
    fail(jobs)
    assert [(dead.record.value, dead.reason) for dead in jobs.dead_letters] == [
        (b"bad", "give_up_on"),
        (b"slow", "max_elapsed"),
    ]


def test_a_delayed_record_waits_and_a_scheduled_one_comes_at_its_time(
    engine: pylog.Engine, clock: ManualClock
) -> None:
    jobs = engine.queue("jobs")
    jobs.put(b"delayed", delay=3600.0)
    jobs.put(b"scheduled", at=clock.time_ns() + 7200 * 10**9)
    jobs.put(b"now")
    assert jobs.qsize() == 3
    for wait, value in ((0.0, b"now"), (3600.0, b"delayed"), (3600.0, b"scheduled")):
        if wait:
            assert jobs.get(0) is None
        clock.now += wait
        with taken(jobs) as delivery:
            assert delivery.value == value


def test_an_expired_record_is_buried_instead_of_delivered(engine: pylog.Engine, clock: ManualClock) -> None:
    jobs = engine.queue("jobs")
    jobs.put(b"quote", expiry=60.0)
    jobs.put(b"order", expiry=600.0)
    clock.now += 60.0
    with taken(jobs) as delivery:
        assert delivery.value == b"order"
    assert [(dead.record.value, dead.reason, dead.attempts) for dead in jobs.dead_letters] == [
        (b"quote", "expired", 0)
    ]


def test_15b_an_open_breaker_pauses_consumption_and_burns_no_attempt(
    engine: pylog.Engine, clock: ManualClock
) -> None:
    breaker = pylog.CircuitBreaker(max_failures=2, reset_timeout=30.0, clock=clock)
    jobs = engine.queue("jobs", breaker=breaker, retry=pylog.Retry.fixed(0.0), max_deliveries=4)
    jobs.put(b"a")
    fail(jobs)
    fail(jobs)
    for _ in range(100):
        assert jobs.get(0) is None
    assert [entry.delivery_count for entry in jobs.peek()] == [2]
    clock.now += 30.0
    trial = taken(jobs)
    assert jobs.get(0) is None, "one is tried at a time"
    with trial:
        pass
    assert breaker.state == "closed"
    assert jobs.qsize() == 0


def test_a_redriven_record_begins_anew_with_all_its_attempts_and_time(
    engine: pylog.Engine, clock: ManualClock
) -> None:
    retry = pylog.Retry.fixed(10.0, max_elapsed=15.0)
    jobs = engine.queue("jobs", retry=retry, max_deliveries=2)
    jobs.put(b"a", key=b"k", headers=[("h", b"1"), ("h", b"2")], expiry=1e6)
    first = taken(jobs)
    identity = first.identity
    first.reject("wrong address")
    clock.now += 1e7
    assert jobs.dead_letters.redrive() == (1, 0)
    again = taken(jobs)
    assert again.record.offset == 1
    assert (again.identity, again.key, again.delivery_count) == (identity, b"k", 1)
    assert again.headers[:2] == [("h", b"1"), ("h", b"2")]
    again.ack()
