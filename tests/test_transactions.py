"""Transactions: appends and offsets that become visible all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pylog


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


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


def test_a_redo_record_that_is_not_whole_is_removed(data: Path, engine: pylog.Engine) -> None:
    with engine.transaction() as transaction:
        transaction.append("out", b"x")
    engine.close()
    (data / "redo" / ("00" * 16 + ".redo")).write_bytes(b"pylogrdo, but torn")
    with pylog.open(data) as again:
        assert values(again) == [b"x"]
    assert redo_records(data) == []
