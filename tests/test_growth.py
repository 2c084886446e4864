"""create_partitions: a topic gets more partitions while processes write, read and share it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child

import pylog


@pytest.fixture
def engine(data: Path) -> Iterator[pylog.Engine]:
    with pylog.open(data) as engine:
        engine.create_topic("t", partitions=2)
        yield engine


def keys(count: int) -> list[bytes]:
    return [b"key-%d" % number for number in range(count)]


def places(engine: pylog.Engine, count: int) -> dict[bytes | None, set[int]]:
    """In which partitions the records of each key are."""
    found: dict[bytes | None, set[int]] = {}
    for record in engine.read("t"):
        found.setdefault(record.key, set()).add(record.partition)
    assert len(found) == count
    return found


def test_a_topic_grows_and_keeps_what_it_has(data: Path, engine: pylog.Engine) -> None:
    before = engine.describe_topic("t")
    engine.append_many("t", [b"old"] * 9, partition=1)
    grown = engine.create_partitions("t", 70)
    assert (grown.partitions, grown.uuid, grown.config) == (70, before.uuid, before.config)
    assert engine.describe_topic("t") == grown
    engine.append("t", b"new", partition=69)
    assert [record.value for record in engine.read("t", 1)] == [b"old"] * 9
    engine.close()
    with pylog.open(data) as again:
        assert [record.value for record in again.read("t", 69)] == [b"new"]
        assert again.log_end_offset("t", 1) == 9


def test_what_it_does_to_keys_is_said_and_is_what_kafka_does(
    engine: pylog.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.append_many("t", [b""] * 50, keys(50))
    before = places(engine, 50)
    with caplog.at_level(logging.WARNING, "pylog"):
        engine.create_partitions("t", 4)
    assert "most keys choose another one" in caplog.text
    engine.append_many("t", [b""] * 50, keys(50))
    after = places(engine, 50)
    assert all(before[key] <= after[key] for key in before)
    moved = [key for key in before if before[key] != after[key]]
    # murmur2 modulo 4 is murmur2 modulo 2, or that and 2
    assert 10 < len(moved) < 40 and all(max(after[key]) == min(after[key]) + 2 for key in moved)


def test_partitions_never_go(engine: pylog.Engine) -> None:
    engine.create_partitions("t", 3)
    assert engine.create_partitions("t", 3).partitions == 3
    for count in (2, 1, 0, 100_001):
        with pytest.raises(pylog.ConfigError):
            engine.create_partitions("t", count)
    with pytest.raises(TypeError):
        engine.create_partitions("t", True)
    with pytest.raises(pylog.UnknownTopicError):
        engine.create_partitions("none", 3)
    assert engine.describe_topic("t").partitions == 3


def test_a_living_producer_follows_with_its_next_batch(data: Path, engine: pylog.Engine) -> None:
    with engine.producer(linger_ms=10_000) as producer:
        for key in keys(50):
            producer.send("t", b"", key)
        producer.flush()
        with pylog.open(data) as other:
            other.create_partitions("t", 4)
        for _ in range(2):  # the first batch is of who does not know yet
            for key in keys(50):
                producer.send("t", b"", key)
            producer.flush()
        producer.send("t", b"there", partition=3)
    assert {record.partition for record in engine.read("t")} == {0, 1, 2, 3}
    assert len(list(engine.read("t"))) == 151


def test_an_idempotent_producer_keeps_what_it_knows(data: Path, engine: pylog.Engine) -> None:
    with engine.producer(producer_id="loader") as producer:
        for number in range(10):
            producer.send("t", b"%d" % number, partition=number % 2, sequence=number)
        producer.flush()
        with pylog.open(data) as other:
            other.create_partitions("t", 4)
        for number in range(10, 20):
            producer.send("t", b"%d" % number, partition=number % 2, sequence=number)
        producer.flush()
        producer.send("t", b"20", partition=3, sequence=20)
        producer.send("t", b"19", partition=1, sequence=19)
        producer.flush()
        assert [producer.last_sequence("t", p) for p in range(4)] == [18, 19, None, 20]
    assert sorted(int(record.value or b"") for record in engine.read("t")) == list(range(21))


MEMBER = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine, engine.consumer("t", group=sys.argv[2] or None) as consumer:
    print("reads", flush=True)
    seen = []
    while len(seen) < 6:
        seen += [record.partition for record in consumer.poll(timeout=30.0)]
    print(sorted(seen), flush=True)
    consumer.commit() if sys.argv[2] else None
"""


@pytest.mark.parametrize("group", ["g", ""], ids=["in a group", "alone"])
def test_a_reader_in_another_process_gets_the_new_partitions_from_their_first_record(
    data: Path, engine: pylog.Engine, group: str
) -> None:
    engine.append_many("t", [b"before it came"] * 3)
    with Child(MEMBER, data, group) as child:
        assert child.says() == "reads"
        engine.create_partitions("t", 6)
        for partition in range(6):
            engine.append("t", b"x", partition=partition)
        assert child.says() == "[0, 1, 2, 3, 4, 5]"
        assert child.ends() == 0
    if group:
        assert [row.committed for row in engine.describe_group("g").partitions][2:] == [1] * 4


def test_a_member_that_came_after_the_growth_goes_on_where_the_partition_began(engine: pylog.Engine) -> None:
    with engine.consumer("t", group="g") as first:
        engine.create_partitions("t", 3)
        while len(first.assignment()) < 3:
            first.poll(timeout=0.05)
        engine.append("t", b"x", partition=2)  # which nobody has read when the first one leaves
    with engine.consumer("t", group="g") as second:
        assert [record.partition for record in second.poll(timeout=5.0)] == [2]


def test_a_reader_that_writes_nothing_sees_them_too(data: Path, engine: pylog.Engine) -> None:
    engine.append("t", b"x", partition=0)
    with pylog.open(data, read_only=True) as reading:
        assert reading.log_end_offset("t", 0) == 1
        engine.create_partitions("t", 5)
        engine.append("t", b"y", partition=4)
        assert [record.value for record in reading.read("t", 4)] == [b"y"]


def test_a_change_of_configuration_holds_for_everybody_at_the_next_use(
    data: Path, engine: pylog.Engine
) -> None:
    with pylog.open(data) as other:
        other.append("t", b"x" * 1000)
        engine.alter_topic("t", max_record_bytes=100)
        with pytest.raises(pylog.RecordTooLargeError):
            other.append("t", b"x" * 1000)


def test_a_table_of_offsets_grows_with_its_topic(engine: pylog.Engine) -> None:
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        engine.append("t", b"x", partition=0)
        consumer.poll(timeout=5.0)
        consumer.commit()
        engine.create_partitions("t", 200)  # more than a block of the table
        while len(consumer.assignment()) < 200:
            consumer.poll(timeout=0.05)
        engine.append("t", b"y", partition=199)
        while consumer.position(("t", 199)) < 1:
            consumer.poll(timeout=5.0)
        consumer.commit()
        assert (consumer.committed(("t", 0)), consumer.committed(("t", 199))) == (1, 1)
