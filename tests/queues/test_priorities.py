"""Priorities (pattern 14): what comes next, and that the least urgent comes at all."""

from __future__ import annotations

import pytest
from taking import Opened, taken, values

import pylog


def test_14a_the_next_get_after_an_urgent_put_returns_it(opened: Opened) -> None:
    jobs = opened(priorities=3)
    jobs.put_many([b"low%d" % n for n in range(10)])
    for n in range(5):
        with taken(jobs) as delivery:
            assert (delivery.value, delivery.priority) == (b"low%d" % n, 0)
        jobs.put(b"high", priority=2)
        jobs.put(b"middle", priority=1)
        with taken(jobs) as delivery:
            assert (delivery.value, delivery.priority) == (b"high", 2)
        with taken(jobs) as delivery:
            assert (delivery.value, delivery.priority) == (b"middle", 1)


@pytest.mark.parametrize(("policy", "bound"), [("weighted", 16), ("aging", 1)])
def test_14b_the_least_urgent_comes_within_the_bound_under_saturating_load(
    opened: Opened, policy: str, bound: int
) -> None:
    jobs = opened(priorities=4, priority_policy=policy, aging_seconds=0.001)
    jobs.put(b"low")
    if policy == "aging":
        jobs.put(b"high", priority=3)
        while (jobs.oldest_age() or 0.0) < 0.05:  # fifty levels: more than there are above it
            pass
    came = []
    for _ in range(bound + 1):
        jobs.put(b"high", priority=3)
        with taken(jobs) as delivery:
            came.append(delivery.value)
    assert b"low" in came


def test_14b_strict_lets_the_least_urgent_wait(opened: Opened) -> None:
    jobs = opened(priorities=2)
    jobs.put(b"low")
    for _ in range(100):
        jobs.put(b"high", priority=1)
        with taken(jobs) as delivery:
            assert delivery.value == b"high"


def test_14c_first_in_is_first_out_inside_a_level(opened: Opened) -> None:
    jobs = opened(priorities=2)
    for n in range(40):
        jobs.put(b"%d" % n, priority=n % 2, key=b"k%d" % (n % 3))
    assert values(jobs) == [b"%d" % n for n in (*range(1, 40, 2), *range(0, 40, 2))]


def test_14d_priority_survives_retry_dead_letter_and_redrive(opened: Opened) -> None:
    jobs = opened(priorities=3, max_deliveries=2)
    jobs.put(b"urgent", priority=2)
    with pytest.raises(OSError), taken(jobs):
        raise OSError
    again = taken(jobs)
    assert again.priority == 2
    again.nack()
    assert dict(next(iter(jobs.dead_letters)).record.headers)["pylog-priority"] == b"2"
    jobs.put(b"low")
    jobs.dead_letters.redrive()
    with taken(jobs) as delivery:
        assert (delivery.value, delivery.priority) == (b"urgent", 2)
    assert values(jobs) == [b"low"]


def test_14e_depth_and_oldest_age_of_each_level(opened: Opened) -> None:
    jobs = opened(priorities=3)
    jobs.put_many([b"0"] * 3)
    jobs.put_many([b"2"] * 2, priority=2)
    first = taken(jobs)
    counts = {level.level: (level.ready, level.in_flight) for level in jobs.counts()}
    assert counts == {0: (3, 0), 1: (0, 0), 2: (1, 1)}
    ages = [jobs.oldest_age(level) for level in range(3)]
    assert ages[1] is None
    assert ages[0] is not None
    assert ages[2] is not None
    assert ages[0] >= ages[2]
    first.ack()


def test_redriving_into_a_queue_of_fewer_levels_takes_the_highest(
    opened: Opened, engine: pylog.Engine
) -> None:
    jobs, flat = opened(priorities=3), opened("flat", priorities=2)
    jobs.put(b"a", priority=2)
    taken(jobs).reject()
    assert jobs.dead_letters.redrive(to=flat) == (1, 0)
    with taken(flat) as delivery:
        assert delivery.priority == 1
