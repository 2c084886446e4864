"""The engine: opening and closing, appends and reading, durability, figures, forks and threads."""

from __future__ import annotations

import fcntl
import gc
import logging
import multiprocessing
import os
import resource
import threading
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pytest
from children import Child

import pylog


def values(engine: pylog.Engine, topic: str = "t", partition: int | None = None) -> list[bytes | None]:
    return [record.value for record in engine.read(topic, partition)]


# ---- opening and closing -------------------------------------------------------------------------------


def test_a_directory_is_named_by_str_or_pathlike(tmp_path: Path) -> None:
    for path in (str(tmp_path / "a"), tmp_path / "b"):
        with pylog.open(path) as engine:
            assert engine.list_topics() == []
    with pytest.raises(TypeError, match="str or a PathLike"):
        pylog.open(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pylog.open(3)  # type: ignore[arg-type]
    for path in ("", "a\0b"):
        with pytest.raises(pylog.ConfigError):
            pylog.open(path)


def test_a_url_is_no_directory() -> None:
    with pytest.raises(pylog.UnsupportedError, match="URL"):
        pylog.open("nats://host:4222")


def test_the_files_belong_to_the_user_alone(data: Path, engine: pylog.Engine) -> None:
    engine.append("t", b"x")
    for at, _, names in os.walk(data):
        assert Path(at).stat().st_mode & 0o777 == 0o700
        for name in names:
            assert (Path(at) / name).stat().st_mode & 0o777 == 0o600, name


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(pylog.FormatError, match="note"):
        pylog.open(tmp_path)
    with pytest.raises(pylog.FormatError, match="where a directory belongs"):
        pylog.open(tmp_path / "note")
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    assert (tmp_path / "note").read_text() == "mine"


def test_a_newer_format_is_refused(data: Path) -> None:
    pylog.open(data).close()
    known = (data / "format").read_text()
    (data / "format").write_text(known.replace('"version": 1', '"version": 2'))
    with pytest.raises(pylog.FormatError, match="newer"):
        pylog.open(data)
    (data / "format").write_text(known.replace('"features": []', '"features": ["sparkles"]'))
    with pytest.raises(pylog.FormatError, match="sparkles"):
        pylog.open(data)


def test_a_directory_that_two_make_at_once_is_made_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, rename, met = fcntl.flock, os.rename, threading.Event()

    def lock(fd: int, operation: int) -> None:
        try:
            flock(fd, operation)
        except BlockingIOError:
            met.set()  # the other one waits for us
            raise

    def open_too() -> None:
        pylog.open(data).close()
        met.set()

    other = threading.Thread(target=open_too)

    def rename_later(source: str, target: str, **options: Any) -> None:
        if target == "format" and other.ident is None:
            other.start()  # as it is to be put in place
            assert met.wait(60)
        rename(source, target, **options)

    monkeypatch.setattr(fcntl, "flock", lock)
    monkeypatch.setattr(os, "rename", rename_later)
    pylog.open(data).close()
    other.join()
    assert [path.name for path in data.iterdir() if "format" in path.name] == ["format"]


def test_a_missing_directory_is_made_only_where_that_is_wanted(data: Path) -> None:
    with pytest.raises(pylog.ConfigError, match="no data directory"):
        pylog.open(data, create=False)
    assert not data.exists()


def test_a_closed_engine_says_so(data: Path) -> None:
    engine = pylog.open(data)
    engine.create_topic("t")
    engine.append("t", b"x")
    reading = engine.read("t")
    engine.close()
    engine.close()
    for use in (
        lambda: engine.append("t", b"x"),
        lambda: engine.append_many("t", [b"x"]),
        lambda: engine.read("t"),
        lambda: next(reading),
        lambda: engine.create_topic("u"),
        lambda: engine.describe_topic("t"),
        lambda: engine.alter_topic("t", durability="os"),
        lambda: engine.delete_topic("t"),
        lambda: engine.list_topics(),
        lambda: engine.producer(),
        lambda: engine.consumer("t"),
        lambda: engine.log_end_offset("t", 0),
        lambda: engine.synced_offset("t", 0),
        lambda: engine.sync(),
        lambda: engine.delete_records("t", 0, 0),
        lambda: engine.metrics(),
        lambda: engine.recovery_reports(),
        lambda: engine.queue("t"),
        lambda: engine.__enter__(),
    ):
        with pytest.raises(pylog.ClosedError):
            use()
    assert "closed" in repr(engine)


def test_a_name_that_the_module_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Enigne"):
        pylog.Enigne  # type: ignore[attr-defined]  # noqa: B018


def test_every_name_of_the_module_is_there() -> None:
    for name in dir(pylog):
        assert getattr(pylog, name) is not None


def test_closing_gives_everything_back(data: Path) -> None:
    def held() -> tuple[int, int, int]:
        files, threads = (len(list(Path("/proc/self", name).iterdir())) for name in ("fd", "task"))
        return files, threads, Path("/proc/self/maps").read_text().count(str(data))

    def use() -> None:
        with pylog.open(data) as engine:
            engine.create_topic("t", partitions=3)
            with engine.producer() as producer, engine.consumer("t", group="g") as consumer:
                producer.send("t", b"x")
                producer.flush()
                consumer.poll()
                consumer.commit()
            list(engine.read("t"))

    use()
    gc.collect()
    before = held()
    use()
    gc.collect()
    assert held() == before


def test_an_engine_that_nobody_closed_is_synced_and_let_go(data: Path, engine: pylog.Engine) -> None:
    engine.create_topic("slow", partitions=2, sync_interval_ms=3_600_000)
    dropped = pylog.open(data)
    dropped.append("slow", b"x", partition=1)
    assert engine.synced_offset("slow", 1) == 0
    del dropped
    gc.collect()
    assert engine.synced_offset("slow", 1) == 1


def test_more_writers_than_are_kept_open_do_not_meet_those_of_an_engine_that_is_gone(data: Path) -> None:
    for topic in ("a", "b"):
        dropped = pylog.open(data)
        dropped.create_topic(topic, partitions=150)
        for partition in range(150):
            dropped.append(topic, b"x", partition=partition)
        del dropped
        gc.collect()
    with pylog.open(data) as engine:
        for topic in ("a", "b"):
            for partition in range(150):
                assert engine.append(topic, b"y", partition=partition).offset == 1


# ---- appending -----------------------------------------------------------------------------------------


def test_an_append_says_where_it_went(engine: pylog.Engine) -> None:
    assert engine.append("t", b"a") == pylog.RecordId("t", 0, 0)
    topic, partition, offset = engine.append("four", b"a", b"key", partition=3)
    assert (topic, partition, offset) == ("four", 3, 0)
    assert (engine.log_start_offset("t", 0), engine.log_end_offset("t", 0)) == (0, 1)


def test_a_record_is_read_as_it_was_appended(engine: pylog.Engine) -> None:
    headers = [("a", b"1"), ("a", b"2"), ("b", None), ("", b"")]
    engine.append("t", b"value", key=b"key", headers=headers, timestamp=-5)
    engine.append("t", None, headers={"x": b"y"})
    first, second = engine.read("t")
    assert (first.key, first.value, first.headers, first.timestamp) == (b"key", b"value", headers, -5)
    assert (first.topic, first.partition, first.offset, first.sequence) == ("t", 0, 0, None)
    assert (second.key, second.value, second.headers) == (None, None, [("x", b"y")])
    with pytest.raises(AttributeError):
        first.value = b"other"  # type: ignore[misc]


def test_keys_go_where_kafka_puts_them_and_rounds_are_made_without(engine: pylog.Engine) -> None:
    # murmur2 of Kafka's own test vectors: 21 -> -973932308
    assert engine.append("four", b"x", key=b"21").partition == (-973932308 & 0x7FFFFFFF) % 4
    assert {engine.append("four", b"x").partition for _ in range(4)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("arguments", "options", "error", "said"),
    [
        (("t", "str"), {}, TypeError, "bytes"),
        (("t", 3), {}, TypeError, "bytes"),
        (("t", b"x", "key"), {}, TypeError, "bytes"),
        ((3, b"x"), {}, TypeError, "str"),
        ((None, b"x"), {}, TypeError, "str"),
        (("../t", b"x"), {}, pylog.ConfigError, "cannot name"),
        (("none", b"x"), {}, pylog.UnknownTopicError, "none"),
        (("t", b"x"), {"partition": 1}, pylog.ConfigError, "partition 1"),
        (("t", b"x"), {"partition": -1}, pylog.ConfigError, "partition -1"),
        (("t", b"x"), {"partition": "0"}, TypeError, "int"),
        (("t", b"x"), {"partition": True}, TypeError, "int"),
        (("t", b"x"), {"partition": 0.0}, TypeError, "int"),
        (("t", b"x"), {"timestamp": 1.5}, TypeError, "int"),
        (("t", b"x"), {"timestamp": True}, TypeError, "int"),
        (("t", bytearray(b"x")), {}, TypeError, "bytes"),
        (("t", b"x"), {"timestamp": 1 << 63}, pylog.ConfigError, "64 bits"),
        (("t", b"x"), {"durability": "always"}, pylog.ConfigError, "sync"),
        (("t", b"x"), {"headers": [("a", "b")]}, TypeError, "bytes"),
        (("t", b"x"), {"headers": [b"a"]}, TypeError, "header"),
        (("t", bytes(1 << 20), b"k"), {}, pylog.RecordTooLargeError, "max_record_bytes"),
    ],
)
def test_a_wrong_append_is_refused_and_leaves_nothing(
    engine: pylog.Engine, arguments: tuple[Any, ...], options: dict[str, Any], error: type, said: str
) -> None:
    with pytest.raises(error, match=said):
        engine.append(*arguments, **options)
    assert engine.log_end_offset("t", 0) == 0


def test_a_record_too_large_says_its_size_and_the_limit(engine: pylog.Engine) -> None:
    engine.create_topic("small", max_record_bytes=10)
    engine.append("small", b"12345", key=b"12345")
    with pytest.raises(pylog.RecordTooLargeError) as caught:
        engine.append("small", b"123456", key=b"12345")
    assert (caught.value.size, caught.value.limit) == (11, 10)


def test_many_are_appended_at_once_from_lists_numpy_and_arrow(engine: pylog.Engine) -> None:
    expected = [b"a", b"", b"ccc"]
    offsets, joined = numpy.array([0, 1, 1, 4], dtype=numpy.int32), numpy.frombuffer(b"accc", numpy.uint8)
    for given in (
        expected,
        tuple(expected),
        (offsets, joined),
        pyarrow.array(expected, pyarrow.binary()),
        pyarrow.chunked_array([[b"a"], [b"", b"ccc"]], pyarrow.binary()),
    ):
        start = engine.log_end_offset("t", 0)
        ids = engine.append_many("t", given, keys=given)
        assert [(found.partition, found.offset) for found in ids] == [(0, start + n) for n in range(3)]
        assert len(ids) == 3 and ids[-1] == pylog.RecordId("t", 0, start + 2)
        records = list(engine.read("t", 0, start))
        assert [record.value for record in records] == expected == [record.key for record in records]
    rows = numpy.arange(12, dtype=numpy.uint8).reshape(3, 4)
    engine.append_many("four", rows, partition=2)
    assert values(engine, "four", 2) == [row.tobytes() for row in rows]


def test_many_take_their_timestamps_from_an_array(engine: pylog.Engine) -> None:
    engine.append_many("t", [b"a", b"b"], timestamps=numpy.array([5, 3]))
    assert [record.timestamp for record in engine.read("t")] == [5, 3]
    with pytest.raises(TypeError, match="timestamp is an int"):
        engine.append_many("t", [b"a"], timestamps=numpy.array([0.5]))


def test_many_with_timestamps_and_headers_keep_them(engine: pylog.Engine) -> None:
    engine.append_many("t", [b"a", None], timestamps=[5, 3], headers=[{"n": b"1"}, None])
    assert [(r.value, r.timestamp, r.headers) for r in engine.read("t")] == [
        (b"a", 5, [("n", b"1")]),
        (None, 3, []),
    ]


def test_many_with_keys_go_to_the_partitions_that_single_ones_go_to(engine: pylog.Engine) -> None:
    keys = [b"%d" % n for n in range(100)]
    ids = engine.append_many("four", keys, keys=keys)
    for key, found in zip(keys, ids, strict=True):
        assert engine.append("four", key, key=key).partition == found.partition
        (record,) = [r for r in engine.read("four", found.partition) if r.offset == found.offset]
        assert record.value == key


def test_none_at_all_are_appended_too(engine: pylog.Engine) -> None:
    assert list(engine.append_many("t", [])) == []
    assert engine.log_end_offset("t", 0) == 0


@pytest.mark.parametrize(
    ("given", "options", "error"),
    [
        (["str"], {}, TypeError),
        ([b"x", 3], {}, TypeError),
        (b"bytes", {}, TypeError),
        (None, {}, TypeError),
        ([b"x"], {"keys": [b"a", b"b"]}, ValueError),
        ([b"x"], {"timestamps": [1, 2]}, ValueError),
        ([b"x"], {"headers": []}, ValueError),
        ([b"x"], {"partition": 9}, pylog.ConfigError),
        ([b"x"], {"partition": 0.0}, TypeError),
        ([b"x"], {"durability": "maybe"}, pylog.ConfigError),
        ([b"x", bytes(2 << 20)], {}, pylog.RecordTooLargeError),
    ],
)
def test_wrong_ones_among_many_leave_nothing(
    engine: pylog.Engine, given: Any, options: dict[str, Any], error: type
) -> None:
    with pytest.raises(error):
        engine.append_many("t", given, **options)
    assert engine.log_end_offset("t", 0) == 0


def test_a_segment_that_is_full_is_followed_by_another(data: Path, engine: pylog.Engine) -> None:
    engine.create_topic("rolls", segment_bytes=16 << 10, compression_type="zstd")
    sent = [os.urandom(1000) for _ in range(60)]
    engine.append_many("rolls", sent[:30])
    for value in sent[30:]:
        engine.append("rolls", value)
    assert len(list((data / "topics/rolls/0").glob("*.log"))) > 3
    assert values(engine, "rolls") == sent
    assert values(engine, "rolls") == [next(engine.read("rolls", 0, n)).value for n in range(60)]


# ---- reading -------------------------------------------------------------------------------------------


def test_without_a_partition_they_are_read_in_their_order(engine: pylog.Engine) -> None:
    for n in range(8):
        engine.append("four", b"%d" % n, partition=3 - n % 4)
    assert values(engine, "four") == [b"3", b"7", b"2", b"6", b"1", b"5", b"0", b"4"]


def test_what_is_appended_after_the_call_is_not_read(engine: pylog.Engine) -> None:
    engine.append_many("t", [b"0", b"1"])
    reading = engine.read("t")
    engine.append("t", b"late")
    assert [record.value for record in reading] == [b"0", b"1"]
    assert list(engine.read("t", 0, 3)) == []


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ({"offset": -1}, pylog.OffsetOutOfRangeError),
        ({"offset": 3}, pylog.OffsetOutOfRangeError),
        ({"offset": "1"}, TypeError),
        ({"offset": True}, TypeError),
        ({"partition": 1}, pylog.ConfigError),
        ({"partition": "0"}, TypeError),
        ({"isolation": "dirty"}, pylog.ConfigError),
    ],
)
def test_a_wrong_place_is_told_by_the_call_itself(
    engine: pylog.Engine, place: dict[str, Any], error: type[Exception]
) -> None:
    engine.append_many("t", [b"0", b"1"])
    with pytest.raises(error):
        engine.read("t", **place)


def test_the_number_of_a_partition_is_an_int(engine: pylog.Engine) -> None:
    for use in (
        engine.log_start_offset,
        engine.log_end_offset,
        engine.synced_offset,
        engine.sync,
        engine.recover,
    ):
        for partition in (0.0, True, "0"):
            with pytest.raises(TypeError):
                use("t", partition)  # type: ignore[arg-type]


def test_an_offset_out_of_range_tells_the_range(engine: pylog.Engine) -> None:
    engine.append("t", b"0")
    with pytest.raises(pylog.OffsetOutOfRangeError) as caught:
        engine.read("t", 0, 7)
    error = caught.value
    assert (error.offset, error.log_start_offset, error.log_end_offset) == (7, 0, 1)
    with pytest.raises(pylog.ConfigError, match="partition"):
        engine.read("four", offset=0)


# ---- durability ----------------------------------------------------------------------------------------


def test_synced_appends_are_on_disk_on_return(engine: pylog.Engine) -> None:
    engine.create_topic("lazy", durability="os")
    engine.append("lazy", b"a")
    assert engine.synced_offset("lazy", 0) == 0
    engine.append("lazy", b"b", durability="sync")
    assert engine.synced_offset("lazy", 0) == 2
    engine.append_many("lazy", [b"c"], durability="sync")
    assert engine.synced_offset("lazy", 0) == 3


def test_what_is_not_synced_is_not_shown_to_who_asks_for_synced(engine: pylog.Engine) -> None:
    engine.create_topic("lazy", durability="os")
    consumer = engine.consumer("lazy", isolation="synced", auto_offset_reset="earliest")
    engine.append("lazy", b"a")
    assert consumer.poll() == []
    assert list(engine.read("lazy", isolation="synced")) == []
    assert len(list(engine.read("lazy"))) == 1
    engine.sync("lazy", 0)
    assert [record.value for record in consumer.poll()] == [b"a"]
    assert len(list(engine.read("lazy", isolation="synced"))) == 1


def test_sync_covers_a_partition_a_topic_or_all(engine: pylog.Engine) -> None:
    for topic in ("l1", "l2"):
        engine.create_topic(topic, partitions=2, durability="os")
        for partition in (0, 1):
            engine.append(topic, b"x", partition=partition)
    engine.sync("l1", 0)
    assert [engine.synced_offset("l1", 0), engine.synced_offset("l1", 1)] == [1, 0]
    engine.sync("l1")
    assert [engine.synced_offset("l1", 1), engine.synced_offset("l2", 0)] == [1, 0]
    engine.sync()
    assert [engine.synced_offset("l2", p) for p in (0, 1)] == [1, 1]
    with pytest.raises(pylog.ConfigError, match="topic"):
        engine.sync(partition=0)


def test_an_interval_topic_is_synced_by_somebody(engine: pylog.Engine) -> None:
    engine.create_topic("often", sync_interval_ms=1)
    engine.append("often", b"x")
    consumer = engine.consumer("often", isolation="synced", auto_offset_reset="earliest")
    assert len(consumer.poll(timeout=60)) == 1
    assert engine.synced_offset("often", 0) == 1


def test_an_append_that_the_disk_refuses_leaves_no_offset_behind(engine: pylog.Engine) -> None:
    for _ in range(4):
        engine.append("t", bytes(40_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(pylog.DiskFullError, match="nothing was appended"):
            engine.append("t", bytes(40_000))  # written, not stored: its place is allocated, the write fails
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert engine.log_end_offset("t", 0) == 4
    with engine.consumer("t", auto_offset_reset="earliest") as consumer:
        assert [record.offset for record in consumer.poll()] == [0, 1, 2, 3]
        assert consumer.poll() == []
        assert engine.append("t", b"x").offset == 4
        assert [record.value for record in consumer.poll()] == [b"x"]


@pytest.mark.parametrize("size", [100, 200_000])
def test_closing_beside_threads_that_append_keeps_all_that_they_were_told_of(data: Path, size: int) -> None:
    told: list[int] = []

    def write(engine: pylog.Engine, first: threading.Event) -> None:
        with pytest.raises(pylog.ClosedError):
            while True:
                told.append(engine.append("t", bytes(size)).offset)
                first.set()

    with pylog.open(data) as engine:
        engine.create_topic("t", durability="os", segment_bytes=4 << 20)
    for _ in range(10):
        engine, first = pylog.open(data), threading.Event()
        threads = [threading.Thread(target=write, args=(engine, first)) for _ in range(3)]
        for thread in threads:
            thread.start()
        first.wait()
        engine.close()
        for thread in threads:
            thread.join()

    with pylog.open(data) as engine:
        assert [record.offset for record in engine.read("t", 0)] == sorted(told)


def test_closing_syncs(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", durability="os")
        engine.append("t", b"x")
    with pylog.open(data) as engine:
        assert engine.synced_offset("t", 0) == 1
        assert engine.recovery_reports() == []


def test_recover_gives_a_healthy_partition_nothing_to_do(engine: pylog.Engine) -> None:
    engine.append("t", b"x", durability="sync")
    engine.recover("t", 0)
    assert values(engine) == [b"x"]


# ---- figures and logging -------------------------------------------------------------------------------


def test_metrics_count_what_was_done_since_opening(engine: pylog.Engine) -> None:
    engine.append("t", b"x")
    engine.append_many("four", [b"y"] * 10, partition=1)
    engine.sync()
    producer = engine.producer()
    found = engine.metrics()
    assert found["appended_records"] == 11
    assert found["appended_batches"] == 2
    assert found["appended_bytes"] > 11
    assert found["syncs"] >= 1
    assert found["read_records"] == 0
    assert len(list(engine.read("four"))) == 10
    found = engine.metrics()
    assert (found["read_batches"], found["read_records"]) == (1, 10)
    assert found["read_bytes"] > 10
    assert (found["open_topics"], found["open_members"]) == (2, 1)
    producer.close()
    engine.delete_topic("t")
    assert engine.metrics()["appended_records"] == 11
    assert engine.metrics()["open_members"] == 0


def test_logging_goes_to_pylog_and_prints_nothing_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, "pylog"), pylog.open(tmp_path / "d") as engine:
        engine.create_topic("t")
        engine.append("t", b"secret")
    assert all(record.name.split(".")[0] == "pylog" for record in caplog.records)
    assert "secret" not in caplog.text
    assert capfd.readouterr() == ("", "")


# ---- threads, processes and forks ----------------------------------------------------------------------


def test_threads_share_an_engine(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", partitions=1)
        start = threading.Barrier(4)

        def work(name: int) -> None:
            start.wait()
            for n in range(200):
                engine.append("t", b"%d %d" % (name, n))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = [tuple(map(int, (value or b"").split())) for value in values(engine)]
        for name in range(4):
            assert [n for who, n in found if who == name] == list(range(200))
        assert engine.metrics()["appended_records"] == 800


def test_threads_that_are_the_first_in_a_partition_share_its_writer(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", partitions=200, durability="os")
        start = threading.Barrier(4)

        def work() -> None:
            start.wait()
            for partition in range(200):
                engine.append("t", b"x", partition=partition)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.metrics()["appended_records"] == 800


def test_two_engines_of_one_process_see_each_other(data: Path) -> None:
    with pylog.open(data) as one, pylog.open(data) as other:
        one.create_topic("t")
        assert other.append("t", b"a").offset == 0
        assert one.append("t", b"b").offset == 1
        assert values(one) == values(other) == [b"a", b"b"]
    with pylog.open(data) as engine:
        assert values(engine) == [b"a", b"b"]


def test_processes_append_to_one_topic(data: Path, engine: pylog.Engine) -> None:
    script = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    for n in range(100):
        engine.append("four", sys.argv[2].encode(), key=b"k")
print("done", flush=True)
"""
    with Child(script, data, "a") as one, Child(script, data, "b") as other:
        for _ in range(100):
            engine.append("four", b"own", key=b"k")
        assert (one.says(), other.says()) == ("done", "done")
    found = values(engine, "four")
    assert sorted(map(found.count, (b"a", b"b", b"own"))) == [100, 100, 100]


def test_a_forked_child_opens_its_own_at_first_use(data: Path, engine: pylog.Engine) -> None:
    engine.append("t", b"parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            engine.append("t", b"child")
            engine.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    engine.append("t", b"parent again")
    assert values(engine) == [b"parent", b"child", b"parent again"]


def test_a_forked_child_that_does_nothing_harms_nobody(engine: pylog.Engine) -> None:
    engine.append("t", b"a")
    child = os.fork()
    if child == 0:
        engine.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    engine.append("t", b"b", durability="sync")
    assert values(engine) == [b"a", b"b"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_writes_what_it_sent(data: Path, method: str) -> None:
    pylog.open(data).close()
    context = multiprocessing.get_context(method)
    with pylog.open(data) as engine:
        engine.create_topic("t")
    child = context.Process(target=open_and_produce, args=(str(data),))
    child.start()
    child.join()
    assert child.exitcode == 0
    with pylog.open(data) as engine:
        assert values(engine) == [b"child"]


def open_and_produce(path: str) -> None:
    global kept
    kept = pylog.open(path).producer(linger_ms=3_600_000)
    kept.send("t", b"child")


def test_what_was_sent_is_written_at_the_end_of_the_process(data: Path, engine: pylog.Engine) -> None:
    script = """
import sys, pylog
engine = pylog.open(sys.argv[1])
producer = engine.producer(linger_ms=3_600_000)
producer.send("t", b"last words")
"""
    with Child(script, data) as child:
        assert child.ends() == 0
    assert values(engine) == [b"last words"]
