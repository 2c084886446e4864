"""Transactions: appends and offsets that become visible all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pylog


@pytest.fixture
def engine(data: Path) -> Iterator[pylog.Engine]:
    with pylog.open(data) as engine:
        engine.create_topic("in")
        engine.create_topic("out", partitions=3, segment_bytes=16 << 10)
        yield engine


def values(engine: pylog.Engine, topic: str = "out") -> list[bytes | None]:
    return [record.value for record in engine.read(topic)]


def redo_records(data: Path) -> list[str]:
    return [path.name for path in data.glob("redo/*")]


def test_a_transaction_is_seen_when_it_commits_and_says_where_it_is(engine: pylog.Engine) -> None:
    engine.append("out", b"before", partition=1)
    transaction = engine.transaction()
    transaction.append("out", b"a", partition=1, headers={"h": b"1"}, timestamp=7)
    transaction.append("out", b"b", b"key", partition=2)
    transaction.append("out", b"c", partition=1)
    assert values(engine) == [b"before"]
    places = transaction.commit()
    assert [(place.partition, place.offset) for place in places] == [(1, 1), (2, 0), (1, 2)]
    records = {(record.partition, record.offset): record for record in engine.read("out")}
    assert [records[place.partition, place.offset].value for place in places] == [b"a", b"b", b"c"]
    assert records[1, 1].headers == [("h", b"1")] or dict(records[1, 1].headers) == {"h": b"1"}
    assert (records[1, 1].timestamp, records[2, 0].key) == (7, b"key")


def test_an_abort_or_an_exception_writes_nothing(engine: pylog.Engine, data: Path) -> None:
    engine.transaction().append("out", b"forgotten")
    aborted = engine.transaction()
    aborted.append("out", b"aborted")
    aborted.abort()
    with pytest.raises(KeyError):
        with engine.transaction() as transaction:
            transaction.append("out", b"never")
            raise KeyError
    assert values(engine) == []
    assert redo_records(data) == []
    for ended in (aborted, transaction):
        with pytest.raises(pylog.ClosedError):
            ended.append("out", b"x")
        with pytest.raises(pylog.ClosedError):
            ended.commit()


@pytest.mark.parametrize("durability", ["os", "interval", "sync"])
def test_keys_choose_partitions_and_segments_roll(
    engine: pylog.Engine, data: Path, durability: Any
) -> None:
    engine.create_topic("t", partitions=4, segment_bytes=16 << 10, durability=durability)
    for number in range(60):
        with engine.transaction() as transaction:
            for key in range(8):
                transaction.append("t", b"%d" % number * 100, b"key%d" % key)
    for record in engine.read("t"):
        assert record.partition == engine.append("t", b"", record.key).partition
    assert sum(engine.log_end_offset("t", partition) for partition in range(4)) == 2 * 480
    assert len(list((data / "topics" / "t").rglob("*.log"))) > 8
    engine.close()
    assert redo_records(data) == []
    with pylog.open(data) as again:
        assert len(values(again, "t")) == 960


def test_offsets_are_committed_with_the_records(engine: pylog.Engine) -> None:
    engine.append_many("in", [b"%d" % n for n in range(10)])
    with engine.consumer("in", group="g", auto_offset_reset="earliest") as consumer:
        for record in consumer.poll(4):
            with engine.transaction() as transaction:
                transaction.append("out", record.value)
                transaction.commit_offsets(consumer, {("in", 0): record.offset + 1})
        assert consumer.committed(("in", 0)) == 4
        consumer.poll(2)
        with engine.transaction() as transaction:
            transaction.commit_offsets(consumer)
        assert consumer.committed(("in", 0)) == 6
    assert sorted(value or b"" for value in values(engine)) == [b"0", b"1", b"2", b"3"]


def test_a_redo_record_goes_when_its_consumer_was_closed_before_it_was_on_disk(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("in", durability="interval")
        engine.append("in", b"1")
        with engine.consumer("in", group="g", auto_offset_reset="earliest") as consumer:
            consumer.poll(1)
            with engine.transaction() as transaction:
                transaction.append("in", b"2")
                transaction.commit_offsets(consumer)
    assert redo_records(data) == []


def test_one_transaction_commits_several_partitions_of_several_groups(engine: pylog.Engine) -> None:
    engine.append_many("out", [b"%d" % n for n in range(30)], [b"%d" % n for n in range(30)])
    options: Any = {"auto_offset_reset": "earliest"}
    with engine.consumer("out", group="a", **options) as a, engine.consumer("out", group="b", **options) as b:
        read = len(a.poll(100)) + len(b.poll(100))
        with engine.transaction() as transaction:
            transaction.commit_offsets(a)
            transaction.commit_offsets(b)
            transaction.append("in", b"%d" % read)
        ends = [engine.log_end_offset("out", partition) for partition in range(3)]
        for consumer in (a, b):
            assert [consumer.committed(("out", partition)) for partition in range(3)] == ends


def test_a_zombie_commits_neither_records_nor_offsets(engine: pylog.Engine) -> None:
    engine.append("in", b"x")
    zombie = engine.consumer("in", group="g", auto_offset_reset="earliest", max_poll_interval_ms=100)
    assert len(zombie.poll(timeout=5.0)) == 1
    transaction = engine.transaction()
    transaction.append("out", b"twice")
    transaction.commit_offsets(zombie)
    with engine.consumer("in", group="g", auto_offset_reset="earliest") as other:
        while not other.assignment():
            other.poll(timeout=0.05)
        with pytest.raises(pylog.IllegalGenerationError):
            transaction.commit()
    assert values(engine) == []


def test_limits_are_named(engine: pylog.Engine) -> None:
    small = engine.transaction(transaction_bytes=2000)
    with pytest.raises(pylog.RecordTooLargeError, match="transaction_bytes"):
        for _ in range(100):
            small.append("in", bytes(100))
    with pytest.raises(pylog.ClosedError):
        small.commit()
    with engine.transaction() as many:
        many.append("in", b"fine")
    large = engine.transaction()
    for _ in range(40):
        large.append("out", bytes(1000), partition=0)
    with pytest.raises(pylog.RecordTooLargeError, match="segment_bytes"):
        large.commit()
    assert values(engine) == []


def test_bad_input_is_refused(engine: pylog.Engine, data: Path) -> None:
    with engine.transaction() as transaction:
        with pytest.raises(pylog.UnknownTopicError):
            transaction.append("nowhere", b"x")
        with pytest.raises(TypeError):
            transaction.append("out", "text")  # type: ignore[arg-type]
        with pytest.raises(pylog.ConfigError):
            transaction.append("out", b"x", partition=3)
        with pytest.raises(pylog.ConfigError):
            transaction.commit_offsets(engine.consumer("in"))
        transaction.append("out", b"good")
    assert values(engine) == [b"good"]
    with pylog.open(data, read_only=True) as reading, pytest.raises(pylog.ReadOnlyError):
        reading.transaction()


def test_two_consumers_of_a_group_commit_in_one_transaction(engine: pylog.Engine) -> None:
    engine.append_many("out", [b"%d" % n for n in range(30)], [b"%d" % n for n in range(30)])
    options: Any = {"group": "g", "auto_offset_reset": "earliest"}
    with engine.consumer("out", **options) as a, engine.consumer("out", **options) as b:
        while not (a.assignment() and b.assignment()):
            read = len(a.poll(100)) + len(b.poll(100))
        read = len(a.poll(100, timeout=0.2)) + len(b.poll(100, timeout=0.2))
        with engine.transaction() as transaction:
            transaction.commit_offsets(a)
            transaction.commit_offsets(b)
            transaction.append("in", b"%d" % read)
        ends = [engine.log_end_offset("out", partition) for partition in range(3)]
        assert [a.committed(("out", partition)) for partition in range(3)] == ends


def test_a_record_beyond_the_limit_of_its_topic_is_refused(engine: pylog.Engine) -> None:
    engine.create_topic("small", max_record_bytes=1000)
    with engine.transaction() as transaction:
        for options in ({"value": bytes(1001)}, {"value": b"", "headers": {"h": bytes(1001)}}):
            with pytest.raises(pylog.RecordTooLargeError, match="max_record_bytes"):
                transaction.append("small", **options)  # type: ignore[arg-type]
        transaction.append("small", bytes(900))
    assert values(engine, "small") == [bytes(900)]


def test_a_transaction_has_at_most_a_thousand_parts(engine: pylog.Engine) -> None:
    engine.create_topic("wide", partitions=1001, segment_bytes=16 << 10)
    engine.append("in", b"x")
    with engine.consumer("in", group="g", auto_offset_reset="earliest") as consumer:
        consumer.poll(timeout=5.0)
        with engine.transaction() as transaction:
            for partition in range(1000):
                transaction.append("wide", b"x", partition=partition)
            with pytest.raises(pylog.RecordTooLargeError, match="1000"):
                transaction.append("wide", b"x", partition=1000)
            with pytest.raises(pylog.RecordTooLargeError, match="1000"):
                transaction.commit_offsets(consumer)
    assert len(values(engine, "wide")) == 1000


def test_metadata_is_committed_too(engine: pylog.Engine) -> None:
    engine.append("in", b"x")
    with engine.consumer("in", group="g", auto_offset_reset="earliest") as consumer:
        consumer.poll(timeout=5.0)
        for metadata in (b"first", b"then"):
            with engine.transaction() as transaction:
                found = pylog.OffsetAndMetadata(1, metadata)
                transaction.commit_offsets(consumer, {("in", 0): found})
            assert consumer.committed_with_metadata(("in", 0)) == found


def test_a_topic_that_was_altered_meanwhile_takes_its_part_and_one_made_anew_does_not(
    engine: pylog.Engine,
) -> None:
    engine.append("in", b"x")
    with engine.consumer("in", group="g", auto_offset_reset="earliest") as consumer:
        consumer.poll(timeout=5.0)
        with engine.transaction() as transaction:
            transaction.append("out", b"altered", b"key")
            transaction.commit_offsets(consumer)
            engine.alter_topic("in", retention_ms=3_600_000)
            engine.alter_topic("out", durability="sync")
            engine.create_partitions("out", 5)
        assert consumer.committed(("in", 0)) == 1
    assert values(engine) == [b"altered"]
    transaction = engine.transaction()
    transaction.append("in", b"never")
    transaction.append("out", b"never")
    engine.delete_topic("out")
    engine.create_topic("out")
    with pytest.raises(pylog.UnknownTopicError, match="made anew"):
        transaction.commit()
    assert (values(engine, "in"), values(engine)) == ([b"x"], [])


def test_a_batch_that_leaves_no_room_for_all_producers_gets_a_segment_of_its_own(
    engine: pylog.Engine,
) -> None:
    for number in range(120):
        with engine.producer(producer_id=f"p{number}") as producer:
            producer.send("out", bytes(10), partition=0, sequence=1)
    for size in (4500, 4500, 4500):
        engine.append("out", bytes(size), partition=0)
        with engine.transaction() as transaction:
            transaction.append("out", bytes(size), partition=0)
            transaction.append("out", bytes(size // 2), partition=0)
    assert engine.log_end_offset("out", 0) == 120 + 9
    assert len(values(engine)) == 129


def test_what_transactions_append_is_counted(engine: pylog.Engine) -> None:
    before = engine.metrics()
    with engine.transaction() as transaction:
        for partition in range(3):
            transaction.append("out", b"x", partition=partition)
    after = engine.metrics()
    assert [after[key] - before[key] for key in ("appended_batches", "appended_records")] == [3, 3]


def test_an_exclusive_producer_keeps_its_sequences_beside_transactions(
    engine: pylog.Engine, data: Path
) -> None:
    for sequence in range(1, 60):
        with engine.producer(producer_id="loader") as producer:
            assert producer.last_sequence("out", 0) in (None, sequence - 1)
            producer.send("out", bytes(300), partition=0, sequence=sequence)
        with engine.transaction() as transaction:
            transaction.append("out", bytes(500), partition=0)
    engine.close()
    with pylog.open(data) as again, again.producer(producer_id="loader") as producer:
        assert producer.last_sequence("out", 0) == 59
        assert len(values(again)) == 118
