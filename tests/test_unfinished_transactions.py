"""Redo records that are left: removed in vain before a power cut, damaged, or of what is gone."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pylog

Leave = Callable[..., tuple[Path, bytes]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    with pylog.open(path) as engine:
        engine.create_topic("in", durability="os")
        engine.append_many("in", [b"0", b"1", b"2"])
        engine.create_topic("out", partitions=2, segment_bytes=16 << 10, durability="interval")
    return path


@pytest.fixture
def leave(data: Path) -> Leave:
    """Commit a transaction; gives back its redo record, which is gone when the engine is closed."""

    def commit(value: bytes = b"x", key: bytes | None = None, offset: int = 1) -> tuple[Path, bytes]:
        with pylog.open(data) as engine, engine.consumer("in", group="g") as consumer:
            consumer.poll()
            with engine.transaction() as transaction:
                for partition in range(2):
                    transaction.append("out", value, key, partition=partition)
                transaction.commit_offsets(consumer, {("in", 0): offset})
            (path,) = data.glob("redo/*.redo")
            content = path.read_bytes()
        assert not path.exists()
        return path, content

    return commit


def values(data: Path, **options: Any) -> list[bytes | None]:
    with pylog.open(data, **options) as engine:
        return [record.value for record in engine.read("out")]


def committed(data: Path) -> int | None:
    with pylog.open(data) as engine, engine.consumer(group="g") as consumer:
        return consumer.committed(("in", 0))


def test_a_record_that_comes_back_does_nothing_twice(data: Path, leave: Leave) -> None:
    first, then = leave(b"x", offset=1), leave(b"y", offset=2)
    for path, content in (first, then):
        path.write_bytes(content)

    assert values(data) == [b"x", b"y", b"x", b"y"]
    assert committed(data) == 2
    assert not any(data.glob("redo/*"))


def test_a_record_that_comes_back_does_not_bring_back_what_was_deleted(data: Path, leave: Leave) -> None:
    path, content = leave()
    with pylog.open(data) as engine:
        engine.append_many("out", [bytes(2000)] * 20, partition=0)
        engine.append("out", b"last", partition=0)
        engine.delete_records("out", 0, 21)
    path.write_bytes(content)

    assert values(data) == [b"last", b"x"]


def test_a_record_that_comes_back_does_not_bring_back_what_was_compacted(data: Path, leave: Leave) -> None:
    with pylog.open(data) as engine:
        engine.alter_topic("out", cleanup_policy="compact")
    path, content = leave(b"old", b"key")
    with pylog.open(data) as engine:
        for partition in range(2):
            engine.append("out", b"new", b"key", partition=partition)
        engine.clean("out", now=True)
    path.write_bytes(content)

    assert values(data) == [b"new", b"new"]


def test_a_record_of_a_topic_that_was_made_anew_does_nothing(data: Path, leave: Leave) -> None:
    path, content = leave()
    with pylog.open(data) as engine:
        for topic in ("in", "out"):
            engine.delete_topic(topic)
            engine.create_topic(topic, partitions=2)
    path.write_bytes(content)

    assert values(data) == []
    assert committed(data) is None
    assert not path.exists()


def test_a_damaged_record_is_set_aside_loudly(
    data: Path, leave: Leave, caplog: pytest.LogCaptureFixture
) -> None:
    path, content = leave()
    path.write_bytes(content[:-1] + b"?")

    with caplog.at_level(logging.ERROR, "pylog"):
        assert values(data) == [b"x", b"x"]
    assert str(path) in caplog.text
    assert [found.name for found in data.glob("redo/*")] == [path.with_suffix(".damaged").name]


def test_reading_only_leaves_a_record_where_it_is(data: Path, leave: Leave) -> None:
    path, content = leave()
    path.write_bytes(content)

    assert values(data, read_only=True) == [b"x", b"x"]
    assert path.exists()


def test_a_record_of_a_damaged_partition_stays_and_stops_nobody(
    data: Path, leave: Leave, caplog: pytest.LogCaptureFixture
) -> None:
    path, content = leave()
    path.write_bytes(content)
    (segment,) = (data / "topics" / "out" / "1").glob("*.log")
    segment.write_bytes(b"?" * 8192)

    with caplog.at_level(logging.WARNING, "pylog"), pylog.open(data) as engine:
        assert [record.value for record in engine.read("out", 0)] == [b"x"]
        assert engine.append("in", b"on").offset == 3
    assert "is not finished yet" in caplog.text
    assert path.exists()


def test_a_consumer_that_closes_before_the_interval_leaves_no_record(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "pylog"), pylog.open(data) as engine:
        with engine.consumer("in", group="g", auto_offset_reset="earliest") as consumer:
            consumer.poll()
            with engine.transaction() as transaction:
                transaction.append("out", b"x")
                transaction.commit_offsets(consumer)
        with engine.transaction() as transaction:
            transaction.append("out", b"y")
        engine.delete_topic("out")
    assert not caplog.records
    assert not any(data.glob("redo/*"))


def test_a_forked_child_does_not_commit_the_transaction_of_its_parent(data: Path) -> None:
    with pylog.open(data) as engine:
        transaction = engine.transaction()
        transaction.append("out", b"x", partition=0)
        child = os.fork()
        if child == 0:
            try:
                transaction.commit()
            except pylog.ClosedError:
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        transaction.commit()
    assert values(data) == [b"x"]
