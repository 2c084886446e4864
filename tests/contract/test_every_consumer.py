"""What every Consumer does. Written against the protocols of pylog.engine alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import pytest

import pylog
from pylog.engine import Consumer, Engine

PATIENCE = 60.0
"""Seconds that a poll may wait for what is surely there: never reached."""


@pytest.fixture(autouse=True)
def topic(engine: Engine) -> None:
    engine.create_topic("t", partitions=2)
    for partition in range(2):
        engine.append_many(
            "t",
            [b"%d" % n for n in range(10)],
            partition=partition,
            timestamps=[1_700_000_000_000_000_000 + 1_000_000 * n for n in range(10)],
        )


@pytest.fixture
def consumer(engine: Engine) -> Iterator[Consumer]:
    with engine.consumer(group="g", auto_offset_reset="earliest") as consumer:
        consumer.assign([("t", 0)])
        yield consumer


def offsets(consumer: Consumer, count: int) -> list[int]:
    """The next `count` offsets."""
    found: list[int] = []
    while len(found) < count:
        found += [record.offset for record in consumer.poll(count - len(found), PATIENCE)]
    return found


def test_a_subscription_reads_all_partitions(engine: Engine) -> None:
    with engine.consumer("t", group="s", auto_offset_reset="earliest") as consumer:
        seen = [(record.partition, record.offset) for record in islice(consumer, 20)]
    assert sorted(seen) == [(p, n) for p in range(2) for n in range(10)]


def test_an_assignment_reads_its_partitions_only(consumer: Consumer) -> None:
    assert consumer.assignment() == [("t", 0)]
    assert offsets(consumer, 10) == list(range(10))
    assert consumer.poll() == []


def test_where_it_starts_is_chosen(engine: Engine) -> None:
    with engine.consumer(auto_offset_reset="latest") as latest:
        latest.assign([("t", 0)])
        assert latest.position(("t", 0)) == 10
    with engine.consumer(auto_offset_reset="error") as strict:
        strict.assign([("t", 0)])
        with pytest.raises(pylog.OffsetOutOfRangeError):
            strict.poll(timeout=PATIENCE)


def test_seeking_by_offset_and_ends(consumer: Consumer) -> None:
    consumer.seek(("t", 0), 7)
    assert consumer.position(("t", 0)) == 7
    assert offsets(consumer, 3) == [7, 8, 9]
    consumer.seek_to_beginning()
    assert offsets(consumer, 1) == [0]
    consumer.seek_to_end()
    assert consumer.poll() == []
    with pytest.raises(pylog.OffsetOutOfRangeError):
        consumer.seek(("t", 0), 11)
        consumer.poll(timeout=PATIENCE)


def test_seeking_by_time(consumer: Consumer) -> None:
    consumer.seek_to_time(1_700_000_000_003_000_000)
    assert offsets(consumer, 1) == [3]
    consumer.seek_to_time(1 << 62)
    assert consumer.poll() == []


def test_offsets_are_told(consumer: Consumer) -> None:
    assert consumer.beginning_offsets() == {("t", 0): 0}
    assert consumer.end_offsets([("t", 1)]) == {("t", 1): 10}


def test_times_are_answered(consumer: Consumer) -> None:
    found = consumer.offsets_for_times({("t", 0): 1_700_000_000_004_000_000, ("t", 1): 1 << 62})
    assert found == {("t", 0): (4, 1_700_000_000_004_000_000), ("t", 1): None}


def test_a_group_goes_on_behind_its_commit(engine: Engine, consumer: Consumer) -> None:
    assert consumer.committed(("t", 0)) is None
    offsets(consumer, 4)
    consumer.commit()
    assert consumer.committed(("t", 0)) == 4
    consumer.commit({("t", 0): 6})
    consumer.close()
    with engine.consumer(group="g", auto_offset_reset="earliest") as another:
        another.assign([("t", 0)])
        assert offsets(another, 4) == [6, 7, 8, 9]


def test_a_commit_in_a_loop_is_at_least_once(engine: Engine) -> None:
    with engine.consumer("t", group="l", auto_offset_reset="earliest", session_timeout_ms=1000) as consumer:
        seen = []
        for record in consumer:
            seen.append((record.partition, record.offset))
            consumer.commit()
            if len(seen) == 7:
                break
    with engine.consumer("t", group="l", auto_offset_reset="earliest", session_timeout_ms=1000) as consumer:
        seen += [(record.partition, record.offset) for record in islice(consumer, 13)]
    assert sorted(seen) == [(p, n) for p in range(2) for n in range(10)]


def test_what_is_paused_is_not_given(consumer: Consumer) -> None:
    consumer.pause()
    assert consumer.paused() == [("t", 0)]
    assert consumer.poll(timeout=0.01) == []
    consumer.resume()
    assert offsets(consumer, 10) == list(range(10))


def test_iteration_ends_with_its_timeout(engine: Engine) -> None:
    with engine.consumer("t", group="i", auto_offset_reset="earliest", timeout=0.01) as consumer:
        consumer.seek_to_end()
        assert list(consumer) == []


def test_a_waiting_consumer_has_what_is_appended(engine: Engine, consumer: Consumer) -> None:
    offsets(consumer, 10)
    thread = threading.Thread(target=engine.append, args=("t", b"new"), kwargs={"partition": 0})
    thread.start()
    assert [record.value for record in consumer.poll(timeout=PATIENCE)] == [b"new"]
    thread.join()


@pytest.mark.needs("columnar_batches")
def test_batches_hold_what_records_hold(consumer: Consumer) -> None:
    batches = list(consumer.batches(timeout=0.0))
    assert [offset for batch in batches for offset in batch.offsets.tolist()] == list(range(10))
    assert [value for batch in batches for value in batch.values()] == [b"%d" % n for n in range(10)]
    assert consumer.position(("t", 0)) == 10


def test_values_come_through_serdes(engine: Engine) -> None:
    with engine.consumer("t", group="j", auto_offset_reset="earliest", value_serde="json") as consumer:
        assert {record.value for record in consumer.poll(5, PATIENCE)} == set(range(5))


def test_it_belongs_to_one_thread(consumer: Consumer) -> None:
    consumer.poll()
    raised: list[BaseException] = []

    def use() -> None:
        try:
            consumer.poll()
        except pylog.UnsupportedError as error:
            raised.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(raised) == 1


def test_a_closed_consumer_says_so(consumer: Consumer) -> None:
    consumer.close()
    consumer.close()
    with pytest.raises(pylog.ClosedError):
        consumer.poll()


def test_commits_that_nobody_waits_for_are_answered_in_their_order(
    engine: Engine, consumer: Consumer
) -> None:
    said: list[tuple[int, bytes, BaseException | None]] = []

    def on_commit(offsets: dict[pylog.TopicPartition, pylog.OffsetAndMetadata], error: object) -> None:
        assert error is None or isinstance(error, BaseException)
        said.extend((offset, metadata, error) for offset, metadata in offsets.values())

    offsets(consumer, 2)
    consumer.commit_async(on_commit=on_commit)
    consumer.commit_async({("t", 0): pylog.OffsetAndMetadata(3, b"note")}, on_commit)
    consumer.commit_async({("t", 0): 4})
    assert said == []  # never called from within
    while len(said) < 2:
        consumer.poll(1)
    assert said == [(2, b"", None), (3, b"note", None)]
    consumer.commit_async({("t", 0): 5}, on_commit)
    consumer.commit({("t", 0): 6})
    assert consumer.committed(("t", 0)) == 6
    consumer.commit_async({("t", 0): 7}, on_commit)
    consumer.close()
    assert said[2:] == [(5, b"", None), (7, b"", None)]
    with engine.consumer(group="g") as another:
        another.assign([("t", 0)])
        assert another.committed(("t", 0)) == 7


def test_a_commit_that_cannot_be_meant_raises_at_once(engine: Engine, consumer: Consumer) -> None:
    with pytest.raises(pylog.ConfigError):
        consumer.commit_async({("t", 1): 1})
    with pytest.raises(TypeError):
        consumer.commit_async({("t", 0): 1}, "a callback")  # type: ignore[arg-type]
    with engine.consumer() as alone, pytest.raises(pylog.ConfigError):
        alone.commit_async()
