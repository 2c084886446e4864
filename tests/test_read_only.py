"""An engine opened with read_only=True: reads what is there, follows writers, changes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child

import pylog

WRITER = """
import sys, pylog
engine = pylog.open(sys.argv[1])
for line in sys.stdin:
    engine.append("t", line.strip().encode(), partition=0)
    print("in", flush=True)
engine.close()
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("t", partitions=2)
        engine.append("t", b"0", partition=0)
    return tmp_path / "data"


@pytest.fixture
def reader(data: Path) -> Iterator[pylog.Engine]:
    with pylog.open(data, read_only=True) as engine:
        yield engine


def values(engine: pylog.Engine) -> list[bytes | None]:
    return [record.value for record in engine.read("t", 0)]


def everything(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every name below with its inode, its time of change and its content."""
    found = {}
    for at, _, names in os.walk(path):
        for name in [".", *names]:
            file = Path(at) / name
            stat = file.stat()
            content = file.read_bytes() if file.is_file() else b""
            found[str(file)] = (stat.st_ino, stat.st_mtime_ns, content)
    return found


def test_reading_changes_nothing_at_all(data: Path) -> None:
    before = everything(data)
    with pylog.open(data, read_only=True) as engine:
        assert values(engine) == [b"0"]
        assert engine.list_topics() == ["t"]
        with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
            assert len(consumer.poll()) == 1
            assert consumer.committed(("t", 0)) is None
    assert everything(data) == before


def test_a_directory_without_write_permission_is_read_and_a_writer_is_told_so(data: Path) -> None:
    script = """
import os, sys, pylog
for user in (0, 65534):    # as root first, who may read what Python is installed in
    os.setuid(user)
    with pylog.open(sys.argv[1], read_only=True) as engine:
        print(os.getuid(), [record.value for record in engine.read("t", 0)], flush=True)
for path, read_only in ((sys.argv[1], False), (sys.argv[2], True), (sys.argv[2], False)):
    try:
        pylog.open(path, read_only=read_only)
    except (pylog.ReadOnlyError, PermissionError) as error:
        print(type(error).__name__, "read_only=True" in str(error), flush=True)
"""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    for at, _, names in os.walk(data):
        Path(at).chmod(0o755)
        for name in names:
            (Path(at) / name).chmod(0o444)
    for parent in data.parents:
        if parent.stat().st_uid == os.geteuid() and parent.stat().st_mode & 0o777 == 0o700:
            parent.chmod(0o711)
    closed = data.parent / "closed"
    shutil.copytree(data, closed)
    closed.chmod(0o700)
    with Child(script, data, closed) as child:
        assert [child.says(), child.says()] == ["0 [b'0']", "65534 [b'0']"]
        assert child.says() == "ReadOnlyError True"
        assert [child.says(), child.says()] == ["PermissionError False"] * 2    # it could not read it either


def test_every_write_is_refused_by_name(reader: pylog.Engine) -> None:
    consumer = reader.consumer("t", group="g", auto_offset_reset="earliest")
    consumer.poll()
    for write in (
        lambda: reader.create_topic("u"),
        lambda: reader.alter_topic("t", durability="os"),
        lambda: reader.delete_topic("t"),
        lambda: reader.append("t", b"x"),
        lambda: reader.append_many("t", [b"x"]),
        lambda: reader.producer(),
        lambda: reader.sync(),
        lambda: reader.recover("t", 0),
        lambda: reader.delete_records("t", 0, 0),
        lambda: consumer.commit(),
    ):
        with pytest.raises(pylog.ReadOnlyError):
            write()


def test_nothing_is_made_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(pylog.ConfigError, match="no data directory"):
        pylog.open(tmp_path / "data", read_only=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(pylog.FormatError, match="empty"):
        pylog.open(tmp_path / "empty", read_only=True)
    assert not list((tmp_path / "empty").iterdir())


def test_what_a_living_writer_appends_is_seen(data: Path) -> None:
    with pylog.open(data) as writer, pylog.open(data, read_only=True) as reader:
        writer.append("t", b"1", partition=0)
        assert values(reader) == [b"0", b"1"]
        writer.append("t", b"2", partition=0)
        assert values(reader) == [b"0", b"1", b"2"]


def test_a_writer_that_came_after_the_reader_is_followed(data: Path, reader: pylog.Engine) -> None:
    assert values(reader) == [b"0"]
    with pylog.open(data) as writer:
        writer.append("t", b"1", partition=0)
        assert values(reader) == [b"0", b"1"]


def test_a_partition_that_the_writer_opens_late_is_followed(data: Path) -> None:
    with pylog.open(data) as writer:
        writer.append("t", b"other", partition=1)
        with pylog.open(data, read_only=True) as reader:
            assert values(reader) == [b"0"]
            writer.append("t", b"1", partition=0)
            assert values(reader) == [b"0", b"1"]


def test_writers_that_take_turns_are_followed(data: Path, reader: pylog.Engine) -> None:
    consumer = reader.consumer(auto_offset_reset="earliest")
    consumer.assign([("t", 0)])
    assert [record.value for record in consumer.poll()] == [b"0"]
    for n in range(1, 4):
        with pylog.open(data) as writer:
            writer.append("t", b"%d" % n, partition=0)
        assert [record.value for record in consumer.poll()] == [b"%d" % n]
        assert values(reader)[-1] == b"%d" % n


def test_a_consumer_waits_for_a_writer_to_come(data: Path, reader: pylog.Engine) -> None:
    consumer = reader.consumer(auto_offset_reset="latest")
    consumer.assign([("t", 0)])
    assert consumer.poll() == []
    with Child(WRITER, data) as child:
        child.tell("late")
        assert [record.value for record in consumer.poll(timeout=30)] == [b"late"]


def test_a_killed_writer_leaves_what_it_published(data: Path, reader: pylog.Engine) -> None:
    with Child(WRITER, data) as child:
        child.tell("1")
        assert child.says() == "in"
        assert values(reader) == [b"0", b"1"]
        child.kill()
    assert values(reader) == [b"0", b"1"]
    with pylog.open(data) as writer:
        writer.append("t", b"2", partition=0)
        assert values(reader) == [b"0", b"1", b"2"]


def test_a_topic_deleted_and_made_anew_is_read_anew(data: Path, reader: pylog.Engine) -> None:
    consumer = reader.consumer(auto_offset_reset="earliest")
    consumer.assign([("t", 0)])
    assert len(consumer.poll()) == 1
    with pylog.open(data) as writer:
        writer.delete_topic("t")
        with pytest.raises(pylog.UnknownTopicError):
            reader.read("t")
        writer.create_topic("t", partitions=1)
        writer.append("t", b"new", partition=0)
        assert values(reader) == [b"new"]
        with pytest.raises(pylog.ClosedError):
            consumer.poll()


def test_a_partition_that_nobody_wrote_is_empty(data: Path, reader: pylog.Engine) -> None:
    assert list(reader.read("t", 1)) == []
    consumer = reader.consumer(auto_offset_reset="earliest")
    consumer.assign([("t", 1)])
    assert consumer.poll(timeout=0.001) == []
    assert consumer.offsets_for_times({("t", 1): 0}) == {("t", 1): None}


def test_a_consumer_polls_for_arrivals(reader: pylog.Engine) -> None:
    assert reader.consumer("t").arrivals is None


def test_what_a_killed_writer_had_not_synced_is_not_called_synced(tmp_path: Path) -> None:
    script = """
import os, sys, pylog
engine = pylog.open(sys.argv[1])
engine.create_topic("t", durability="os", segment_bytes=16 << 10)
engine.append("t", b"on disk", durability="sync")
for _ in range(3):
    engine.append("t", b"in memory")
print("in", flush=True)
sys.stdin.read()
"""
    with Child(script, tmp_path / "data") as child:
        assert child.says() == "in"
        child.kill()
    with pylog.open(tmp_path / "data", read_only=True) as reader:
        assert (reader.synced_offset("t", 0), reader.log_end_offset("t", 0)) == (1, 4)
        assert [record.value for record in reader.read("t", 0, isolation="synced")] == [b"on disk"]
        assert len(values(reader)) == 4
    with pylog.open(tmp_path / "data") as writer:
        assert writer.synced_offset("t", 0) == 4
    with pylog.open(tmp_path / "data", read_only=True) as reader:
        assert reader.synced_offset("t", 0) == 4
