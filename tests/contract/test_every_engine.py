"""What every Engine does: topics, appends, reading. Written against the protocols of pylog.engine alone."""

from __future__ import annotations

from typing import Any

import pytest

import pylog
from pylog.engine import Consumer, Engine, Producer


def test_it_is_what_the_protocols_say(engine: Engine) -> None:
    engine.create_topic("t")
    assert isinstance(engine, Engine)
    with engine.producer() as producer, engine.consumer("t") as consumer:
        assert isinstance(producer, Producer)
        assert isinstance(consumer, Consumer)


def test_records_are_deleted_up_to_an_offset(engine: Engine) -> None:
    engine.create_topic("t")
    engine.append_many("t", [b"0", b"1", b"2"])
    assert engine.delete_records("t", 0, 2) == 2
    assert engine.log_start_offset("t", 0) == 2
    assert [record.value for record in engine.read("t")] == [b"2"]
    with pytest.raises(pylog.OffsetOutOfRangeError):
        engine.delete_records("t", 0, 4)


# ---- topics --------------------------------------------------------------------------------------------


def test_a_topic_is_made_described_listed_and_deleted(engine: Engine) -> None:
    made = engine.create_topic("orders", partitions=3)
    assert (made.name, made.partitions) == ("orders", 3)
    assert engine.describe_topic("orders") == made
    engine.create_topic("a")
    assert engine.list_topics() == ["a", "orders"]
    engine.delete_topic("orders")
    assert engine.list_topics() == ["a"]
    with pytest.raises(pylog.UnknownTopicError):
        engine.describe_topic("orders")


def test_a_topic_gets_more_partitions_and_never_fewer(engine: Engine) -> None:
    engine.create_topic("t", partitions=2)
    engine.append("t", b"x", partition=1)
    assert engine.create_partitions("t", 4).partitions == 4
    assert engine.create_partitions("t", 4) == engine.describe_topic("t")
    engine.append("t", b"y", partition=3)
    assert [record.value for record in engine.read("t")] == [b"x", b"y"]
    with pytest.raises(pylog.ConfigError):
        engine.create_partitions("t", 3)


def test_making_what_is_there_compares(engine: Engine) -> None:
    made = engine.create_topic("t", partitions=3)
    assert engine.create_topic("t") == made == engine.create_topic("t", partitions=3)
    with pytest.raises(pylog.TopicConfigError):
        engine.create_topic("t", partitions=4)
    with pytest.raises(pylog.TopicExistsError):
        engine.create_topic("t", if_exists="raise")


@pytest.mark.parametrize("name", ["", ".", "..", "-x", ".x", "a/b", "a b", "ä", "x" * 201, "a\0"])
def test_what_cannot_name_a_topic_is_refused(engine: Engine, name: str) -> None:
    with pytest.raises(pylog.ConfigError):
        engine.create_topic(name)
    assert engine.list_topics() == []


@pytest.mark.parametrize("use", ["describe_topic", "delete_topic", "read", "consumer"])
def test_an_unknown_topic_is_named(engine: Engine, use: str) -> None:
    with pytest.raises(pylog.UnknownTopicError, match="nowhere"):
        getattr(engine, use)("nowhere")


def test_a_topic_made_anew_is_empty_and_another_one(engine: Engine) -> None:
    older = engine.create_topic("t")
    engine.append("t", b"x")
    engine.delete_topic("t")
    assert engine.create_topic("t").uuid != older.uuid
    assert list(engine.read("t")) == []


# ---- records -------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_went_in(engine: Engine) -> None:
    engine.create_topic("t")
    headers = [("h", b"1"), ("h", b"2"), ("n", None)]
    engine.append("t", b"value", key=b"key", headers=headers, timestamp=1_700_000_000_000_000_000)
    engine.append("t", None, key=b"tombstone")
    engine.append("t", b"")
    first, second, third = engine.read("t")
    assert (first.key, first.value, first.headers) == (b"key", b"value", headers)
    assert first.timestamp == 1_700_000_000_000_000_000
    assert (second.key, second.value) == (b"tombstone", None)
    assert (third.key, third.value, third.headers) == (None, b"", [])
    assert [record.offset for record in (first, second, third)] == [0, 1, 2]


@pytest.mark.needs("append_returns_offset")
def test_an_append_is_visible_on_return_and_says_where(engine: Engine) -> None:
    engine.create_topic("t", partitions=2)
    for n in range(3):
        found = engine.append("t", b"%d" % n, partition=1)
        assert tuple(found) == ("t", 1, n)
        (record,) = engine.read("t", 1, n)
        assert record.value == b"%d" % n
    ids = engine.append_many("t", [b"a", b"b"], partition=0)
    assert [tuple(found) for found in ids] == [("t", 0, 0), ("t", 0, 1)]
    assert (engine.log_start_offset("t", 1), engine.log_end_offset("t", 1)) == (0, 3)


def test_a_key_stays_on_its_partition(engine: Engine) -> None:
    engine.create_topic("t", partitions=5)
    keys = [b"%d" % n for n in range(50)]
    with engine.producer() as producer:
        for key in keys:
            producer.send("t", b"sent", key)
    engine.append_many("t", [b"many"] * 50, keys=keys)
    for key in keys:
        engine.append("t", b"one", key=key)
    places: dict[bytes | None, set[int]] = {}
    for record in engine.read("t"):
        places.setdefault(record.key, set()).add(record.partition)
    assert len(places) == 50
    assert all(len(partitions) == 1 for partitions in places.values())
    assert places[b"21"] == {(-973932308 & 0x7FFFFFFF) % 5}  # as Kafka's own tests have it


def test_reading_ends_where_the_log_ended(engine: Engine) -> None:
    engine.create_topic("t")
    engine.append_many("t", [b"%d" % n for n in range(5)])
    reading = engine.read("t", 0, 2)
    engine.append("t", b"late")
    assert [record.offset for record in reading] == [2, 3, 4]
    for offset in (-1, 7):
        with pytest.raises(pylog.OffsetOutOfRangeError):
            list(engine.read("t", 0, offset))


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("t", "str"), {}, TypeError),
        (("t", b"x", 3), {}, TypeError),
        (("t", b"x"), {"partition": 2}, pylog.ConfigError),
        (("t", b"x"), {"headers": {"h": 3}}, TypeError),
        (("t", bytes(2 << 20)), {}, pylog.RecordTooLargeError),
        (("nowhere", b"x"), {}, pylog.UnknownTopicError),
    ],
)
def test_a_wrong_record_leaves_nothing(
    engine: Engine, arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception]
) -> None:
    engine.create_topic("t", partitions=2)
    with pytest.raises(error):
        engine.append(*arguments, **options)
    assert list(engine.read("t")) == []


# ---- the end -------------------------------------------------------------------------------------------


def test_what_was_written_is_there_after_opening_again(open_engine: Any) -> None:
    with open_engine() as engine:
        engine.create_topic("t", partitions=2)
        engine.append_many("t", [b"%d" % n for n in range(10)], partition=1)
    with open_engine() as engine:
        assert engine.list_topics() == ["t"]
        assert [record.value for record in engine.read("t", 1)] == [b"%d" % n for n in range(10)]


def test_a_closed_engine_says_so(open_engine: Any) -> None:
    engine = open_engine()
    engine.close()
    engine.close()
    with pytest.raises(pylog.ClosedError):
        engine.list_topics()


@pytest.mark.parametrize(
    ("capability", "use"),
    [
        ("transactions", lambda engine: engine.transaction()),
        ("queues", lambda engine: engine.queue("q")),
        ("event_store", lambda engine: engine.event_store("s")),
        ("durability_per_call", lambda engine: engine.append("t", b"x", durability="sync")),
        ("synced_offset", lambda engine: engine.synced_offset("t", 0)),
        ("recover", lambda engine: engine.recover("t", 0)),
        ("group_administration", lambda engine: engine.list_groups()),
        ("clean", lambda engine: engine.clean()),
        ("producer_resume", lambda engine: engine.producer(producer_id="p").resume_from("t")),
        ("columnar_batches", lambda engine: next(engine.consumer("t").batches(0), None)),
    ],
)
def test_what_an_engine_lacks_it_refuses_and_nothing_else(engine: Engine, capability: str, use: Any) -> None:
    engine.create_topic("t")
    if capability in engine.capabilities:
        use(engine)
    else:
        with pytest.raises(pylog.UnsupportedError):
            use(engine)
