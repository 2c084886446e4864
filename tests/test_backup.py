"""Hot backup: a consistent copy while others write, restored by opening it."""

from __future__ import annotations

import errno
import itertools
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pylog
from pylog.cli import main


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[pylog.Engine]:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("t", partitions=2, segment_bytes=16 << 10)
        yield engine


def contents(engine: pylog.Engine, topic: str = "t") -> list[tuple[int, int, bytes | None, bytes | None]]:
    return [(record.partition, record.offset, record.key, record.value) for record in engine.read(topic)]


def fill(engine: pylog.Engine, count: int) -> None:
    engine.append_many("t", [bytes(500)] * count, [b"%d" % n for n in range(count)])


def test_a_backup_holds_records_offsets_and_configuration(engine: pylog.Engine, tmp_path: Path) -> None:
    fill(engine, 300)
    engine.create_topic("empty", partitions=3, durability="sync")
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        consumer.poll(100)
        consumer.commit({("t", 0): pylog.OffsetAndMetadata(7, b"here")})
    report = engine.backup(tmp_path / "copy")

    assert (report.topics, report.groups, report.records) == (2, 1, 300)
    assert report.linked_bytes > report.copied_bytes > 0
    with pylog.open(tmp_path / "copy") as copy:
        assert contents(copy) == contents(engine)
        assert copy.describe_topic("empty") == engine.describe_topic("empty")
        assert copy.recovery_reports() == []
        with copy.consumer(group="g") as consumer:
            assert consumer.committed_with_metadata(("t", 0)) == (7, b"here")
            assert consumer.committed(("t", 1)) is None
        fill(copy, 10)
        fill(engine, 20)
        assert copy.log_end_offset("t", 0) != engine.log_end_offset("t", 0)
    assert len(contents(engine)) == 320


def test_what_a_restored_copy_appends_is_of_another_epoch(engine: pylog.Engine, tmp_path: Path) -> None:
    fill(engine, 4)
    engine.backup(tmp_path / "copy")
    with pylog.open(tmp_path / "copy") as copy:
        place = copy.append("t", b"other", partition=0)
        assert next(iter(copy.read("t", 0, place.offset))).epoch == 1
    with pylog.open(tmp_path / "copy", read_only=True) as copy:
        assert [record.epoch for record in copy.read("t", 0)][-1] == 1


def test_a_backup_of_a_directory_that_is_written_to_is_a_prefix_that_no_group_is_ahead_of(
    engine: pylog.Engine, tmp_path: Path
) -> None:
    stop = threading.Event()

    def write() -> None:
        for number in itertools.count():
            engine.append("t", b"%d" % number, partition=number % 2)
            if stop.is_set():
                return

    def consume() -> None:
        with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
            while not stop.is_set():
                consumer.poll(timeout=0.01)
                consumer.commit()

    threads = [threading.Thread(target=work) for work in (write, consume)]
    for thread in threads:
        thread.start()
    try:
        for number in range(5):
            while (engine.log_end_offset("t", 0)) < 500 * (number + 1):
                pass
            engine.backup(tmp_path / f"copy{number}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for number in range(5):
        with pylog.open(tmp_path / f"copy{number}") as copy, copy.consumer(group="g") as consumer:
            for partition in range(2):
                values = [int(record.value or b"") for record in copy.read("t", partition)]
                assert values == list(range(partition, 2 * len(values), 2))
                assert len(values) >= 500 * number
                assert (consumer.committed(("t", partition)) or 0) <= len(values)


def test_a_queue_goes_on_in_a_restored_copy_where_it_was(engine: pylog.Engine, tmp_path: Path) -> None:
    engine.create_topic("jobs")
    engine.append_many("jobs", [b"%d" % n for n in range(10)])
    source = engine.queue_source("jobs", max_deliveries=7)
    leases = source.lease(5)
    assert not source.ack_many(leases[:3])
    source.nack(leases[3], delay=3600)
    assert engine.backup(tmp_path / "copy").queues == 1
    source.ack(leases[4])

    with pylog.open(tmp_path / "copy") as copy:
        again = copy.queue_source("jobs")
        assert again.config.max_deliveries == 7
        came = [(lease.record.offset, lease.delivery_count) for lease in again.lease(10)]
        assert came == [(4, 2), *((n, 1) for n in range(5, 10))]
        assert again.counts()[0].delayed == 1
        copy.append("jobs", b"new")
        assert [lease.record.value for lease in again.lease(10)] == [b"new"]


def test_a_backup_of_a_backup_and_of_deleted_things(engine: pylog.Engine, tmp_path: Path) -> None:
    fill(engine, 100)
    engine.create_topic("gone")
    with engine.consumer("gone", group="g") as consumer:
        consumer.commit()
    engine.delete_topic("gone")
    engine.backup(tmp_path / "one")
    with pylog.open(tmp_path / "one") as copy:
        fill(copy, 5)
        copy.backup(tmp_path / "two")
    with pylog.open(tmp_path / "two") as copy:
        assert len(contents(copy)) == 105
        assert copy.list_topics() == ["t"]


def test_where_something_is_nothing_is_written(engine: pylog.Engine, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for place in (tmp_path / "there", tmp_path / "data" / "inside"):
        with pytest.raises(pylog.ConfigError):
            engine.backup(place)
    with pytest.raises(OSError, match="no"):
        engine.backup(tmp_path / "no" / "such")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "there"]


def test_a_full_disk_leaves_nothing(
    engine: pylog.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine, 100)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(pylog.DiskFullError):
        engine.backup(tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_without_links_segments_are_copied(
    engine: pylog.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine, 100)

    def other_disk(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", other_disk)
    assert engine.backup(tmp_path / "copy").linked_bytes == 0
    with pylog.open(tmp_path / "copy", read_only=True) as copy:
        assert contents(copy) == contents(engine)


def test_the_command_says_what_it_took(
    engine: pylog.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(engine, 100)
    assert main(["-C", str(tmp_path / "data"), "backup", str(tmp_path / "copy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 100
    assert main(["-C", str(tmp_path / "copy"), "verify"]) == 0
    assert main(["-C", str(tmp_path / "data"), "backup", str(tmp_path / "copy")]) == 2
    assert "is there already" in capsys.readouterr().err
