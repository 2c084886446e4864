"""Topics: making, comparing, altering and deleting them, and what is on disk of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xxhash
from children import Child

import pylog


@pytest.fixture
def engine(data: Path) -> Iterator[pylog.Engine]:
    with pylog.open(data) as engine:
        yield engine


CONFIG: dict[str, Any] = {
    "segment_bytes": 1 << 20,
    "durability": "sync",
    "compression_type": "zstd",
    "max_record_bytes": 1000,
    "sync_interval_ms": 7,
    "max_unsynced_bytes": 1 << 20,
    "cleanup_policy": "compact",
    "retention_ms": 86_400_000,
    "retention_bytes": 1 << 30,
    "retention_groups": ("audit", "billing"),
    "retention_groups_max_bytes": 1 << 40,
    "min_cleanable_dirty_ratio": 0.25,
    "min_compaction_lag_ms": 1000,
    "delete_retention_ms": 2000,
    "fixed_partitions": True,
}


def test_a_topic_is_kept_as_it_was_made(data: Path) -> None:
    with pylog.open(data) as engine:
        made = engine.create_topic("t", partitions=5, partitioner="xxh3", **CONFIG)
        assert (made.name, made.partitions, made.partitioner) == ("t", 5, "xxh3")
        assert made.config.as_dict() == CONFIG
    with pylog.open(data) as engine:
        assert engine.describe_topic("t") == made


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"partitions": 0}, pylog.ConfigError, "1 to 100000"),
        ({"partitions": 100_001}, pylog.ConfigError, "1 to 100000"),
        ({"partitions": "3"}, TypeError, "int"),
        ({"partitions": True}, TypeError, "int"),
        ({"partitioner": "crc"}, pylog.ConfigError, "murmur2"),
        ({"if_exists": "ignore"}, pylog.ConfigError, "compare"),
        ({"segment_bytes": 1}, pylog.ConfigError, "segment_bytes"),
        ({"segment_bytes": 2 << 30}, pylog.ConfigError, "segment_bytes"),
        ({"durability": "fsync"}, pylog.ConfigError, "'interval'"),
        ({"compression_type": "lz4"}, pylog.ConfigError, "'zstd'"),
        ({"max_record_bytes": 0}, pylog.ConfigError, "max_record_bytes"),
        ({"segment_bytes": 1 << 20, "max_record_bytes": 1 << 20}, pylog.ConfigError, "does not fit"),
        ({"sync_interval_ms": 0.5}, TypeError, "sync_interval_ms"),
        ({"segmentbytes": 1 << 20}, pylog.ConfigError, "did you mean segment_bytes"),
    ],
)
def test_a_wrong_option_is_named_and_makes_nothing(
    engine: pylog.Engine, data: Path, given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        engine.create_topic("t", **given)
    assert list((data / "topics").iterdir()) == []


@pytest.mark.parametrize("name", [3, None, b"t"])
def test_a_name_is_a_str(engine: pylog.Engine, name: Any) -> None:
    with pytest.raises(TypeError, match="str"):
        engine.create_topic(name)


def test_what_differs_is_told(engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=2, durability="sync")
    engine.create_topic("t", durability="sync")
    with pytest.raises(pylog.TopicConfigError) as caught:
        engine.create_topic("t", partitions=3, durability="os", partitioner="murmur2")
    assert caught.value.topic == "t"
    assert caught.value.differences == {"partitions": (2, 3), "durability": ("sync", "os")}


def test_an_altered_topic_works_by_its_new_configuration_at_once(engine: pylog.Engine) -> None:
    engine.create_topic("t", durability="os")
    engine.append("t", b"x" * 2000)
    changed = engine.alter_topic("t", durability="sync", max_record_bytes=1000)
    assert engine.describe_topic("t") == changed
    assert (changed.config.durability, changed.config.max_record_bytes) == ("sync", 1000)
    with pytest.raises(pylog.RecordTooLargeError):
        engine.append("t", b"x" * 2000)
    engine.append("t", b"y")
    assert engine.synced_offset("t", 0) == 2
    assert [len(record.value or b"") for record in engine.read("t")] == [2000, 1]


def test_the_shape_of_a_topic_is_not_altered(engine: pylog.Engine) -> None:
    made = engine.create_topic("t")
    for given in ({"segment_bytes": 1 << 20}, {"partitions": 3}, {"retention": 3}):
        with pytest.raises(pylog.ConfigError):
            engine.alter_topic("t", **given)  # type: ignore[arg-type]
    with pytest.raises(pylog.ConfigError):
        engine.alter_topic("t", durability="never")  # type: ignore[arg-type]
    with pytest.raises(pylog.UnknownTopicError):
        engine.alter_topic("u", durability="os")
    assert engine.describe_topic("t") == made


def test_a_topic_deleted_by_another_process_is_gone_for_all(data: Path, engine: pylog.Engine) -> None:
    engine.create_topic("t")
    engine.append("t", b"old")
    script = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    engine.append("t", b"other")
    engine.delete_topic("t")
    print("deleted", flush=True)
    sys.stdin.readline()
    engine.create_topic("t")
    engine.append("t", b"new")
    print("made", flush=True)
    sys.stdin.read()
"""
    with Child(script, data) as child:
        assert child.says() == "deleted"
        for use in (
            lambda: engine.append("t", b"x"),
            lambda: engine.append_many("t", [b"x"]),
            lambda: engine.read("t"),
            lambda: engine.log_end_offset("t", 0),
            lambda: engine.delete_topic("t"),
            lambda: engine.consumer("t"),
        ):
            with pytest.raises(pylog.UnknownTopicError):
                use()
        child.tell()
        assert child.says() == "made"
        assert engine.append("t", b"x").offset == 1
        assert [record.value for record in engine.read("t")] == [b"new", b"x"]


def test_nothing_of_a_deleted_topic_is_left(data: Path, engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=3)
    engine.append("t", b"x")
    engine.delete_topic("t")
    assert list((data / "topics").iterdir()) == []


def test_what_a_killed_process_left_half_done_is_removed(data: Path) -> None:
    pylog.open(data).close()
    left = data / "topics" / ".t.0123456789abcdef.deleted.tmp"
    left.mkdir()
    (left / "topic.json").write_text("{}")
    with pylog.open(data) as engine:
        assert engine.list_topics() == []
        assert not left.exists()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", pylog.CorruptionError),
        (b"[]", pylog.CorruptionError),
        (b"\xff", pylog.CorruptionError),
        (b"[" * 100_000, pylog.CorruptionError),
        ({"name": "u"}, pylog.CorruptionError),
        ({"uuid": "x"}, pylog.CorruptionError),
        ({"partitions": 0}, pylog.CorruptionError),
        ({"partitions": 1.5}, pylog.CorruptionError),
        ({"config": []}, pylog.CorruptionError),
        ({"partitioner": "newer"}, pylog.FormatError),
        ({"config": {"compression_type": "brotli"}}, pylog.FormatError),
        ({"config": {"newer": 1}}, pylog.FormatError),
    ],
)
def test_a_damaged_topic_json_is_an_error_of_this_topic_alone(
    data: Path, content: bytes | dict[str, Any], error: type[Exception]
) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t")
        engine.create_topic("sound")
    path = data / "topics/t/topic.json"
    if isinstance(content, dict):
        stated = json.loads(path.read_text()) | content
        del stated["checksum"]
        plain = json.dumps(stated, sort_keys=True, separators=(",", ":"))
        content = json.dumps(stated | {"checksum": xxhash.xxh3_64_hexdigest(plain.encode())}).encode()
    path.write_bytes(content)
    with pylog.open(data) as engine:
        with pytest.raises(error, match=r"topic\.json"):
            engine.describe_topic("t")
        with pytest.raises(error, match=r"topic\.json"):
            engine.append("t", b"x")
        engine.append("sound", b"x")
        assert engine.list_topics() == ["sound", "t"]


def test_symbolic_links_are_not_followed(data: Path, tmp_path: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t")
        engine.append("t", b"x")
    (data / "topics/t").rename(tmp_path / "elsewhere")
    (data / "topics/t").symlink_to(tmp_path / "elsewhere")
    with pylog.open(data) as engine:
        assert engine.list_topics() == []
        with pytest.raises(pylog.FormatError, match="symbolic"):
            engine.append("t", b"x")


def test_a_directory_that_no_topic_can_be_is_not_listed(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t")
        for name in ("two\nlines", "-x", "café"):
            (data / "topics" / name).mkdir()
        assert engine.list_topics() == ["t"]
