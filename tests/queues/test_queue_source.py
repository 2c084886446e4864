"""A queue's source in one process: leases, counts, delays, order by key, levels, transactions, read-only."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clocks import ManualClock

import pylog
from pylog.embedded.engine import EmbeddedEngine
from pylog.embedded.queue_source import EmbeddedQueueSource
from pylog.queue_options import DUE_HEADER
from pylog.queue_source import QueueSource

Source = EmbeddedQueueSource


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(data: Path, clock: ManualClock) -> Iterator[pylog.Engine]:
    with EmbeddedEngine(data, clock=clock) as engine:
        engine.create_topic("jobs", durability="os")
        yield engine


def opened(engine: Any, **options: Any) -> Source:
    source: Source = engine.queue_source("jobs", **options)
    return source


def put(engine: pylog.Engine, *values: str, **options: Any) -> None:
    for value in values:
        engine.append("jobs", value.encode(), **options)


def due(clock: ManualClock, seconds: float) -> dict[str, bytes | None]:
    return {DUE_HEADER: b"%d" % (clock.time_ns() + round(seconds * 1e9))}


def take(source: Source, most: int = 100, **options: Any) -> list[str]:
    return [(lease.record.value or b"").decode() for lease in source.lease(most, **options)]


def states(source: Source) -> tuple[int, ...]:
    (counts,) = source.counts()
    return counts[1:]


def test_a_source_is_what_the_protocol_says(engine: pylog.Engine) -> None:
    assert isinstance(opened(engine), QueueSource)


def test_a_record_is_in_one_hand_at_a_time_until_it_is_acked(engine: pylog.Engine) -> None:
    source = opened(engine)
    put(engine, "a", "b", "c")
    first = source.lease()[0]
    assert (first.record.value, first.delivery_count, first.started, first.level) == (b"a", 1, True, 0)
    assert take(source) == ["b", "c"]
    assert take(source) == []
    assert states(source) == (0, 0, 0, 3, 0)
    source.ack(first)
    assert states(source) == (0, 0, 0, 2, 1)


def test_what_is_acked_cannot_be_acked_nacked_started_or_extended_again(engine: pylog.Engine) -> None:
    source = opened(engine)
    put(engine, "a")
    lease = source.lease()[0]
    source.ack(lease)
    late: list[Callable[[Any], None]] = [source.ack, source.nack, source.start, source.extend]
    for change in late:
        with pytest.raises(pylog.LeaseLostError) as lost:
            change(lease)
        assert (lost.value.topic, lost.value.partition, lost.value.offset) == ("jobs", 0, 0)
    assert source.ack_many([lease]) == [lease]
    source.release([lease])
    assert states(source) == (0, 0, 0, 0, 1)


def test_a_stale_token_never_acks_the_newer_delivery(engine: pylog.Engine) -> None:
    source = opened(engine)
    put(engine, "a")
    stale = source.lease()[0]
    source.nack(stale)
    newer = source.lease()[0]
    assert newer.token > stale.token
    with pytest.raises(pylog.LeaseLostError):
        source.ack(stale)
    source.ack(newer)


def test_nack_makes_ready_at_once_and_keeps_the_count(engine: pylog.Engine) -> None:
    source = opened(engine)
    put(engine, "a", "b")
    source.nack(source.lease()[0])
    assert [(lease.record.offset, lease.delivery_count) for lease in source.lease(5)] == [(0, 2), (1, 1)]


def test_nack_with_a_delay_makes_ready_when_it_is_over(engine: pylog.Engine, clock: ManualClock) -> None:
    source = opened(engine)
    put(engine, "a")
    source.nack(source.lease()[0], delay=10.0)
    assert (take(source), source.next_due()) == ([], clock.time_ns() + 10_000_000_000)
    clock.now += 9.9
    assert take(source) == []
    clock.now += 0.2
    assert (take(source), source.next_due()) == (["a"], None)


def test_a_delivery_is_counted_when_it_is_started_not_when_it_is_leased(engine: pylog.Engine) -> None:
    source = opened(engine)
    put(engine, "a", "b")
    first, second = source.lease(2, start=False)
    assert (first.delivery_count, first.started) == (0, False)
    source.start(first)
    source.start(first)
    assert (first.delivery_count, first.started) == (1, True)
    source.release([first, second])
    again = source.lease(2)
    assert [lease.delivery_count for lease in again] == [1, 1], "released: no attempt was burnt"
    source.nack(again[0])
    assert source.lease()[0].delivery_count == 2


def test_many_are_acked_at_once_and_the_lost_ones_are_named(engine: pylog.Engine) -> None:
    source = opened(engine)
    engine.append_many("jobs", [b"%d" % i for i in range(1000)])
    leases = source.lease(1000)
    source.nack(leases[7])
    assert source.ack_many(leases) == [leases[7]]
    assert states(source) == (1, 0, 0, 0, 999)
    assert source.floor(0) == 7


def test_a_record_that_is_scheduled_is_not_delivered_before_its_time(
    engine: pylog.Engine, clock: ManualClock
) -> None:
    source = opened(engine)
    put(engine, "later", headers=due(clock, 60))
    put(engine, "now")
    put(engine, "soon", headers=due(clock, 5))
    assert take(source) == ["now"]
    clock.now += 6
    assert take(source) == ["soon"]
    clock.now += 60
    assert take(source) == ["later"]


def test_headers_that_are_no_time_delay_nothing(engine: pylog.Engine) -> None:
    source = opened(engine)
    for value in (b"", b"soon", b"-1", b"9" * 30, None):
        put(engine, "x", headers={DUE_HEADER: value})
    assert take(source) == ["x"] * 5


def test_nothing_comes_early_where_the_table_is_lost(data: Path, clock: ManualClock) -> None:
    with EmbeddedEngine(data, clock=clock) as engine:
        engine.create_topic("jobs")
        source = opened(engine)
        put(engine, "a", "b", "c")
        put(engine, "later", headers=due(clock, 60))
        source.ack_many(source.lease(2))
        assert take(source) == ["c"]
    (data / "queues" / "jobs" / "0.deliveries").unlink()
    with EmbeddedEngine(data, clock=clock) as engine:
        source = opened(engine)
        assert source.floor(0) == 2, "the floor is kept elsewhere"
        assert take(source) == ["c"]
        clock.now += 61
        assert take(source) == ["later"]


def test_states_counts_and_delays_outlive_the_engine(data: Path, clock: ManualClock) -> None:
    with EmbeddedEngine(data, clock=clock) as engine:
        engine.create_topic("jobs")
        source = opened(engine)
        put(engine, "a", "b", "c", "d")
        leases = source.lease(3)
        source.ack(leases[0])
        source.nack(leases[1], delay=30)
    with EmbeddedEngine(data, clock=clock) as engine:
        source = opened(engine)
        assert states(source) == (2, 0, 1, 0, 1), "what was in flight is ready: its process ended"
        assert [(lease.record.value, lease.delivery_count) for lease in source.lease(5)] == [
            (b"c", 2),
            (b"d", 1),
        ]
        clock.now += 31
        assert source.lease()[0].delivery_count == 2


def test_with_order_by_key_a_key_is_never_in_two_hands(engine: pylog.Engine, clock: ManualClock) -> None:
    source = opened(engine, order="key")
    for value, key in (("a1", b"a"), ("a2", b"a"), ("b1", b"b"), ("n1", None), ("a3", b"a"), ("n2", None)):
        put(engine, value, key=key)
    first = source.lease(10)
    assert [lease.record.value for lease in first] == [b"a1", b"b1", b"n1", b"n2"]
    assert states(source) == (0, 2, 0, 4, 0)
    source.nack(first[0], delay=5)
    assert take(source) == [], "the order holds over a retry"
    clock.now += 6
    (again,) = source.lease(10)
    source.ack(again)
    (second,) = source.lease(10)
    assert second.record.value == b"a2"
    source.ack(second)
    assert take(source) == ["a3"]


def test_a_scheduled_record_takes_its_place_in_its_key_when_it_is_due(
    engine: pylog.Engine, clock: ManualClock
) -> None:
    source = opened(engine, order="key")
    put(engine, "later", key=b"k", headers=due(clock, 5))
    put(engine, "now", key=b"k")
    (now,) = source.lease(10)
    clock.now += 6
    assert (now.record.value, take(source)) == (b"now", [])
    source.ack(now)
    assert take(source) == ["later"]


def test_order_by_key_outlives_the_engine(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("jobs")
        source = opened(engine, order="key")
        for i in range(200):
            put(engine, str(i), key=b"%d" % (i % 7))
        assert take(source, 3) == ["0", "1", "2"]
    with pylog.open(data) as engine:
        source = opened(engine)
        seen: list[int] = []
        while leases := source.lease(100):
            assert len({lease.record.key for lease in leases}) == len(leases)
            seen += [int(lease.record.value or b"") for lease in leases]
            assert source.ack_many(leases) == []
        assert sorted(seen) == list(range(200))
        assert all([i for i in seen if i % 7 == key] == list(range(key, 200, 7)) for key in range(7))


def levels(engine: pylog.Engine, source: Source, values: str) -> None:
    """Put a record of each digit's level, with the digit and its place as its value."""
    for place, digit in enumerate(values):
        partition = source.partition_for(None, int(digit))
        engine.append("tasks", f"{digit}{place}".encode(), partition=partition)


def tasks(engine: Any, **options: Any) -> Source:
    engine.create_topic("tasks", partitions=3)
    source: Source = engine.queue_source("tasks", priorities=3, **options)
    return source


def test_the_next_get_after_an_urgent_put_returns_it(engine: pylog.Engine) -> None:
    source = tasks(engine)
    levels(engine, source, "0100")
    assert take(source, 1) == ["11"]
    levels(engine, source, "12")
    assert take(source, 10) == ["21", "10", "00", "02", "03"], "FIFO inside a level"
    assert [(counts.level, counts.in_flight) for counts in source.counts()] == [(0, 3), (1, 2), (2, 1)]


def test_with_weights_a_level_gets_twice_the_turns_of_the_one_below(engine: pylog.Engine) -> None:
    source = tasks(engine, priority_policy="weighted")
    levels(engine, source, "2" * 100 + "1" * 100 + "0" * 100)
    taken = [take(source, 1)[0][0] for _ in range(70)]
    assert [taken.count(level) for level in "210"] == [40, 20, 10]
    assert all("0" in taken[i : i + 7] for i in range(63)), "the bound: one turn in seven"


def test_with_aging_what_waits_gains_a_level_every_so_many_seconds(
    engine: pylog.Engine, clock: ManualClock
) -> None:
    source = tasks(engine, priority_policy="aging", aging_seconds=10.0)

    def append(level: int, value: str) -> None:
        engine.append("tasks", value.encode(), partition=level, timestamp=clock.time_ns())

    append(0, "old")
    clock.now += 19
    append(2, "new")
    assert take(source, 1) == ["new"]
    clock.now += 2
    append(2, "newer")
    assert take(source, 2) == ["old", "newer"]


def test_peek_shows_what_is_unfinished_and_changes_nothing(engine: pylog.Engine, clock: ManualClock) -> None:
    source = opened(engine)
    put(engine, "a", "b", "c")
    put(engine, "later", headers=due(clock, 60))
    leases = source.lease(2)
    source.nack(leases[1], delay=9)
    before = states(source)
    assert [(entry.record.value, entry.state, entry.delivery_count) for entry in source.peek()] == [
        (b"a", "in_flight", 1),
        (b"b", "delayed", 1),
        (b"c", "ready", 0),
        (b"later", "delayed", 0),
    ]
    assert [entry.record.value for entry in source.peek(1, "delayed")] == [b"b"]
    assert [source.state_of(0, offset) for offset in range(4)] == ["in_flight", "delayed", "ready", "delayed"]
    assert states(source) == before
    assert source.oldest(0) == leases[0].record.timestamp


def test_purge_finishes_all_but_what_is_in_flight(engine: pylog.Engine, clock: ManualClock) -> None:
    source = opened(engine)
    put(engine, "a", "b", "c")
    put(engine, "later", headers=due(clock, 60))
    lease = source.lease()[0]
    assert source.purge() == 3
    assert (take(source), states(source)) == ([], (0, 0, 0, 1, 3))
    source.ack(lease)
    assert source.state_of(0, 3) == "finished"


def test_19a_partitions_that_a_topic_gets_are_worked_by_who_has_it_open(data: Path) -> None:
    with pylog.open(data) as engine, pylog.open(data) as other:
        engine.create_topic("t")
        jobs = engine.queue_source("jobs", topic="t")
        engine.append("t", b"0")
        (held,) = jobs.lease(10)
        other.create_partitions("t", 3)
        for partition in range(3):
            other.append("t", b"%d" % partition, partition=partition)
        assert sum(counts.ready for counts in jobs.counts()) == 3
        leases = [held]
        while found := jobs.lease(10):
            leases += found
        assert sorted(lease.record.partition for lease in leases) == [0, 0, 1, 2]
        assert jobs.ack_many(leases) == []
        jobs.sync()
        assert [jobs.floor(partition) for partition in range(3)] == [2, 1, 1]


def test_14c_a_topic_whose_partitions_are_levels_gets_no_more(engine: pylog.Engine) -> None:
    engine.create_topic("levels", partitions=2)
    engine.queue_source("jobs", topic="levels", priorities=2).close()
    with pytest.raises(pylog.TopicConfigError, match="jobs"):
        engine.create_partitions("levels", 4)
    assert engine.create_partitions("levels", 2).partitions == 2


def test_several_queues_and_groups_work_the_same_bytes(engine: Any) -> None:
    put(engine, "a", "b")
    other = engine.queue_source("audit", "jobs")
    assert take(opened(engine)) == take(other) == ["a", "b"]
    with engine.consumer("jobs", group="g", auto_offset_reset="earliest") as consumer:
        assert len(consumer.poll()) == 2
    assert engine.list_queues() == ["audit", "jobs"]


def test_options_are_kept_and_a_different_one_is_refused(engine: Any) -> None:
    source = engine.queue_source("jobs", max_deliveries=9, notes={"dead_letter": "jobs.dlq"})
    again = engine.queue_source("jobs")
    assert again.config == source.config
    assert again.notes == {"dead_letter": "jobs.dlq"}
    for options in ({"max_deliveries": 8}, {"notes": {"dead_letter": "x"}}, {"topic": "other"}):
        with pytest.raises(pylog.TopicConfigError) as refused:
            engine.queue_source("jobs", **options)
        assert len(refused.value.differences) == 1


@pytest.mark.parametrize(
    "options",
    [{"order": "value"}, {"priorities": 0}, {"priorities": 2}, {"visibility_timeout": 0.1}, {"speed": 1}],
)
def test_bad_options_are_refused(engine: Any, options: dict[str, Any]) -> None:
    with pytest.raises(pylog.ConfigError):
        engine.queue_source("jobs", **options)


def test_deleted_records_are_finished(engine: pylog.Engine) -> None:
    source = opened(engine)
    put(engine, *"abcdef")
    leases = source.lease(3)
    source.nack(leases[1])
    engine.delete_records("jobs", 0, 4)
    assert take(source) == ["e", "f"]
    source.ack(leases[0])
    assert source.state_of(0, 1) == "finished"


def test_compacted_records_are_finished(engine: Any) -> None:
    engine.create_topic("kept", cleanup_policy="compact", segment_bytes=16 << 10)
    source: Source = engine.queue_source("kept")
    for i in range(100):
        engine.append("kept", b"%d" % i + b" " * 1000, b"%d" % (i % 10))
    leases = source.lease(30)
    for lease in leases:
        source.nack(lease)
    engine.clean("kept", now=True)
    left = [record.offset for record in engine.read("kept")]
    assert len(left) < 100
    assert [lease.record.offset for lease in source.lease(100)] == left


def test_a_waiting_lease_is_woken_by_a_put_a_nack_and_a_due_time(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("jobs")
        source = opened(engine)
        got: list[Any] = []
        waiter = threading.Thread(target=lambda: got.extend(source.lease(1, timeout=30)))
        waiter.start()
        put(engine, "a")
        waiter.join()
        source.nack(got[0], delay=0.05)
        assert [lease.delivery_count for lease in source.lease(1, timeout=30)] == [2]
        assert source.lease(1, timeout=0.01) == []


def test_closing_the_engine_ends_who_waits(data: Path) -> None:
    engine = pylog.open(data)
    engine.create_topic("jobs")
    source = opened(engine)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            source.lease(1, timeout=None)
        except pylog.ClosedError as error:
            ended.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    engine.close()
    waiter.join()
    assert len(ended) == 1


def test_a_transaction_finishes_records_together_with_what_it_appends(engine: Any) -> None:
    source = opened(engine)
    engine.create_topic("dead")
    put(engine, "a", "b", "c")
    leases = source.lease(3)
    with engine.transaction() as transaction:
        transaction.append("dead", b"a")
        transaction.ack(leases[:2])
    assert states(source) == (0, 0, 0, 1, 2)
    assert [record.value for record in engine.read("dead")] == [b"a"]


def test_a_transaction_with_a_lost_lease_does_nothing(engine: Any) -> None:
    source = opened(engine)
    engine.create_topic("dead")
    put(engine, "a", "b")
    leases = source.lease(2)
    source.nack(leases[1])
    transaction = engine.transaction()
    transaction.append("dead", b"a")
    transaction.ack(leases)
    with pytest.raises(pylog.LeaseLostError):
        transaction.commit()
    assert states(source) == (1, 0, 0, 1, 0)
    assert list(engine.read("dead")) == []
    source.ack(leases[0])


def test_a_read_only_engine_looks_and_leases_nothing(data: Path, engine: pylog.Engine) -> None:
    source = opened(engine)
    put(engine, "a", "b", "c")
    source.ack(source.lease(2)[0])
    with pylog.open(data, read_only=True) as reader:
        looking = opened(reader)
        assert states(looking) == (1, 0, 0, 1, 1)
        assert [entry.state for entry in looking.peek()] == ["in_flight", "ready"]
        with pytest.raises(pylog.ReadOnlyError):
            looking.lease()
        with pytest.raises(pylog.ReadOnlyError):
            looking.purge()


def test_leases_are_inert_in_a_forked_child(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("jobs")
        source = opened(engine)
        put(engine, "a", "b")
        lease = source.lease()[0]
        child = os.fork()
        if child == 0:
            code = 1
            try:
                source.ack(lease)
            except pylog.LeaseLostError:
                code = 0 if take(source) == ["b"] else 2
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        source.ack(lease)
        assert take(source, timeout=30) == ["b"], "the child's lease went with the child"


def test_a_burst_of_unfinished_records_is_given_back(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("jobs")
        source = opened(engine)
        engine.append_many("jobs", [b"x"] * 30_000)
        table = data / "queues" / "jobs" / "0.deliveries"
        leases = source.lease(1)
        small = table.stat().st_blocks
        leases += source.lease(30_000)
        assert source.ack_many(leases[1:]) == []
        source.nack(leases[0], delay=3600)
        assert table.stat().st_blocks > 30 * small
        source.sync()
        assert table.stat().st_blocks <= 2 * small
        assert states(source) == (0, 0, 1, 0, 29_999)
        put(engine, "y")
        assert take(source) == ["y"]
