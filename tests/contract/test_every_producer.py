"""What every Producer does. Written against the protocols of pylog.engine alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import pylog
from pylog.engine import Engine


@pytest.fixture(autouse=True)
def topic(engine: Engine) -> None:
    engine.create_topic("t", partitions=3)


def values(engine: Engine, partition: int | None = None) -> list[bytes | None]:
    return [record.value for record in engine.read("t", partition)]


def test_leaving_the_block_writes_everything_in_order(engine: Engine) -> None:
    with engine.producer(linger_ms=3_600_000) as producer:
        for n in range(1000):
            producer.send("t", b"%d" % n, partition=n % 3)
    for partition in range(3):
        assert values(engine, partition) == [b"%d" % n for n in range(partition, 1000, 3)]


def test_an_exception_in_the_block_loses_nothing(engine: Engine) -> None:
    with pytest.raises(KeyError), engine.producer(linger_ms=3_600_000) as producer:
        producer.send("t", b"x")
        raise KeyError
    assert values(engine) == [b"x"]


def test_a_flush_makes_it_visible(engine: Engine) -> None:
    with engine.producer(linger_ms=3_600_000) as producer:
        producer.send("t", b"x", b"key", headers={"h": b"1"})
        producer.flush()
        (record,) = engine.read("t")
        assert (record.key, record.value, record.headers) == (b"key", b"x", [("h", b"1")])


def test_deliveries_are_reported_with_their_places(engine: Engine) -> None:
    delivered: list[pylog.RecordId] = []

    def report(ids: Sequence[pylog.RecordId], error: BaseException | None) -> None:
        assert error is None
        delivered.extend(ids)

    with engine.producer(on_delivery=report) as producer:
        for n in range(10):
            producer.send("t", b"x", partition=n % 3)
    assert sorted(map(tuple, delivered)) == sorted((r.topic, r.partition, r.offset) for r in engine.read("t"))


def test_serdes_turn_values_into_bytes(engine: Engine) -> None:
    with engine.producer(key_serde="str", value_serde="json") as producer:
        producer.send("t", {"a": 1}, "ü")
        with pytest.raises(pylog.SerializationError):
            producer.send("t", {1, 2}, "ü")
    (record,) = engine.read("t")
    assert (record.key, record.value) == ("ü".encode(), b'{"a":1}')


def test_wrong_records_are_refused_by_their_send(engine: Engine) -> None:
    with engine.producer() as producer:
        with pytest.raises(TypeError):
            producer.send("t", "str")
        with pytest.raises(pylog.UnknownTopicError):
            producer.send("nowhere", b"x")
        with pytest.raises(pylog.ConfigError):
            producer.send("t", b"x", partition=3)
    assert values(engine) == []


def test_a_closed_producer_says_so(engine: Engine) -> None:
    producer = engine.producer()
    producer.close()
    producer.close()
    with pytest.raises(pylog.ClosedError):
        producer.send("t", b"x")


@pytest.mark.needs("producer_resume")
def test_a_replay_from_resume_from_is_exactly_once(engine: Engine) -> None:
    for end in (10, 10, 50, 51):
        with engine.producer(producer_id="loader") as producer:
            for n in range(producer.resume_from("t"), end):
                producer.send("t", b"%d" % n, key=b"%d" % (n % 7), sequence=n)
    assert sorted(int(value or b"") for value in values(engine)) == list(range(51))


@pytest.mark.needs("producer_resume")
def test_a_producer_id_is_exclusive(engine: Engine) -> None:
    older = engine.producer(producer_id="p", linger_ms=3_600_000)
    older.send("t", b"older", sequence=0)
    with engine.producer(producer_id="p") as newer:
        newer.send("t", b"newer", sequence=1, partition=0)
    with pytest.raises(pylog.FencedError):
        older.flush()
    with pytest.raises(pylog.FencedError):
        older.close()
    assert values(engine) == [b"newer"]
