"""copy_topic: into other partitions, in order by key, and each record once however often it is begun."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child

import pylog


@pytest.fixture
def engine(data: Path) -> Iterator[pylog.Engine]:
    with pylog.open(data) as engine:
        yield engine


def by_key(engine: pylog.Engine, topic: str) -> dict[bytes | None, list[bytes | None]]:
    found: dict[bytes | None, list[bytes | None]] = {}
    for record in engine.read(topic):
        found.setdefault(record.key, []).append(record.value)
    return found


def fill(engine: pylog.Engine, first: int, count: int, keys: int = 37) -> None:
    numbers = range(first, first + count)
    engine.append_many(
        "t",
        [b"%d" % number for number in numbers],
        [b"key-%d" % (number % keys) for number in numbers],
        timestamps=list(numbers),
    )


def in_order(count: int, keys: int = 37) -> dict[bytes | None, list[bytes | None]]:
    return {b"key-%d" % key: [b"%d" % n for n in range(key, count, keys)] for key in range(keys)}


@pytest.mark.parametrize("partitions", [None, 1, 7])
def test_a_copy_has_each_record_once_and_each_key_in_order(
    engine: pylog.Engine, partitions: int | None
) -> None:
    engine.create_topic("t", partitions=3, retention_ms=-1, segment_bytes=1 << 20)
    fill(engine, 0, 2000)
    report = engine.copy_topic("t", "new", partitions)
    assert report == ("t", "new", partitions or 3, 2000, 0)
    assert by_key(engine, "new") == in_order(2000)
    assert engine.describe_topic("new").config == engine.describe_topic("t").config
    again = engine.copy_topic("t", "new")
    assert again.copied == 0
    fill(engine, 2000, 500)
    assert engine.copy_topic("t", "new").copied == 500
    assert by_key(engine, "new") == in_order(2500)


def test_records_stay_as_they_are(engine: pylog.Engine) -> None:
    engine.create_topic("t")
    engine.append("t", None, b"key", headers=[("a", b"1"), ("a", None)], timestamp=123)
    engine.append("t", b"value", None, timestamp=-5)
    engine.copy_topic("t", "new")
    old, new = list(engine.read("t")), list(engine.read("new"))
    for name in ("key", "value", "timestamp", "headers"):
        assert [getattr(record, name) for record in old] == [getattr(record, name) for record in new]


def test_a_topic_that_grew_is_brought_in_order_again(engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=2)
    fill(engine, 0, 1000)
    engine.create_partitions("t", 3)
    fill(engine, 1000, 1000)
    engine.create_partitions("t", 5)
    fill(engine, 2000, 1000)
    assert by_key(engine, "t") != in_order(3000)
    assert engine.copy_topic("t", "new", 4).copied == 3000
    assert by_key(engine, "new") == in_order(3000)


def test_what_was_deleted_before_is_not_missed(engine: pylog.Engine) -> None:
    engine.create_topic("t")
    fill(engine, 0, 100, keys=1)
    engine.delete_records("t", 0, 40)
    assert engine.copy_topic("t", "new", 2).copied == 60
    assert by_key(engine, "new") == {b"key-0": [b"%d" % n for n in range(40, 100)]}


def test_a_copy_that_cannot_be_meant_is_refused(engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=2)
    engine.copy_topic("t", "new")
    with pytest.raises(pylog.ConfigError):
        engine.copy_topic("t", "t")
    with pytest.raises(pylog.TopicConfigError):
        engine.copy_topic("t", "new", 3)
    with pytest.raises(pylog.UnknownTopicError):
        engine.copy_topic("none", "new")
    assert engine.list_topics() == ["new", "t"]


COPIER = """
import sys, threading, pylog
with pylog.open(sys.argv[1]) as engine:
    print("begins", flush=True)
    engine.copy_topic("t", "new", 4)
"""


def test_a_copy_that_is_killed_again_and_again_ends_with_each_record_once(
    data: Path, engine: pylog.Engine
) -> None:
    engine.create_topic("t", partitions=2)
    fill(engine, 0, 30_000)
    engine.create_partitions("t", 3)
    fill(engine, 30_000, 30_000)
    engine.create_topic("new", partitions=4)
    with engine.consumer("new", auto_offset_reset="earliest") as watcher:
        for goal in (1, 5_000, 20_000, 45_000):
            with Child(COPIER, data) as child:
                assert child.says() == "begins"
                while child.process.poll() is None and watcher.metrics()["records"] < goal:
                    watcher.poll(timeout=0.1)
                child.kill()
    with Child(COPIER, data) as child:
        assert child.ends() == 0
    assert by_key(engine, "new") == in_order(60_000)
