"""The producer as a user has it: options, lingering, serdes, reports, failures, idempotence, ends."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from children import Child

import pylog

LONG = 3_600_000.0
"""A linger_ms that no test lives to see."""


def values(engine: pylog.Engine, topic: str = "t", partition: int | None = None) -> list[bytes | None]:
    return [record.value for record in engine.read(topic, partition)]


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file grows: what a full disk does to an append."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


BIG = b"x" * 70_000
"""More than a new segment has allocated: a full disk refuses it."""


# ---- options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"linger_ms": -1}, pylog.ConfigError, "linger_ms"),
        ({"linger_ms": None}, pylog.ConfigError, "linger_ms"),
        ({"linger_ms": "5"}, TypeError, "linger_ms"),
        ({"batch_bytes": 1}, pylog.ConfigError, "batch_bytes"),
        ({"batch_bytes": 1.5}, TypeError, "batch_bytes"),
        ({"buffer_bytes": 1}, pylog.ConfigError, "buffer_bytes"),
        ({"batch_bytes": 1 << 20, "buffer_bytes": 1 << 17}, pylog.ConfigError, "no batch would fit"),
        ({"when_full": "drop"}, pylog.ConfigError, "'block', 'raise'"),
        ({"durability": "acks"}, pylog.ConfigError, "'sync'"),
        ({"lingerms": 5}, pylog.ConfigError, "did you mean linger_ms"),
        ({"producer_id": "../x"}, pylog.ConfigError, "producer"),
        ({"producer_id": 3}, TypeError, "producer"),
        ({"on_delivery": "me"}, TypeError, "on_delivery"),
        ({"value_serde": "pickle"}, pylog.ConfigError, "value_serde"),
        ({"key_serde": 3}, pylog.ConfigError, "key_serde"),
    ],
)
def test_a_wrong_option_is_named(
    engine: pylog.Engine, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        engine.producer(**options)
    assert engine.metrics()["open_members"] == 0


# ---- when it is written --------------------------------------------------------------------------------


def test_leaving_the_block_writes_everything(engine: pylog.Engine) -> None:
    with engine.producer(linger_ms=LONG) as producer:
        producer.send("t", b"a")
        producer.send("four", b"b", b"key", 3, {"h": b"1"}, 7)
        assert values(engine) == []
    assert values(engine) == [b"a"]
    (record,) = engine.read("four")
    assert (record.partition, record.key, record.headers, record.timestamp) == (3, b"key", [("h", b"1")], 7)
    with pytest.raises(pylog.ClosedError):
        producer.send("t", b"late")
    producer.close()


def test_leaving_the_block_by_an_exception_still_writes(engine: pylog.Engine) -> None:
    with pytest.raises(ZeroDivisionError), engine.producer(linger_ms=LONG) as producer:
        producer.send("t", b"a")
        1 / 0  # noqa: B018
    assert values(engine) == [b"a"]


def test_closing_the_engine_writes_what_its_producers_have(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t")
        producer = engine.producer(linger_ms=LONG)
        producer.send("t", b"a")
    with pytest.raises(pylog.ClosedError):
        producer.send("t", b"b")
    with pylog.open(data) as engine:
        assert values(engine) == [b"a"]


def test_what_lingers_is_written_by_itself(engine: pylog.Engine) -> None:
    consumer = engine.consumer("t", auto_offset_reset="earliest")
    producer = engine.producer(linger_ms=1)
    for n in range(3):
        producer.send("t", b"%d" % n)
        assert [record.value for record in consumer.poll(timeout=60)] == [b"%d" % n]


def test_a_producer_that_is_dropped_writes_and_warns(engine: pylog.Engine) -> None:
    producer = engine.producer(linger_ms=LONG)
    producer.send("t", b"a")
    with pytest.warns(ResourceWarning, match="dropped"):
        del producer
        gc.collect()
    assert values(engine) == [b"a"]


def test_the_thread_ends_with_the_engine(data: Path) -> None:
    before = threading.active_count()
    with pylog.open(data) as engine:
        engine.create_topic("t")
        engine.producer(linger_ms=LONG).send("t", b"a")
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_producer_of_synced_batches_has_them_on_disk_after_a_flush(engine: pylog.Engine) -> None:
    engine.create_topic("lazy", durability="os")
    with engine.producer(linger_ms=LONG, durability="sync") as producer:
        producer.send("lazy", b"a")
        producer.flush()
        assert engine.synced_offset("lazy", 0) == 1


def test_the_topics_compression_holds_for_its_batches(engine: pylog.Engine) -> None:
    engine.create_topic("z", compression_type="zstd")
    with engine.producer(linger_ms=LONG) as producer:
        for _ in range(1000):
            producer.send("z", b"the same again")
    consumer = engine.consumer("z", auto_offset_reset="earliest")
    (batch,) = consumer.batches(timeout=0)
    assert (batch.codec, batch.record_count) == ("zstd", 1000)
    assert batch.stored_bytes < 14_000 / 3
    assert batch.values() == [b"the same again"] * 1000


# ---- serdes --------------------------------------------------------------------------------------------


class Reversed:
    def serialize(self, value: Any) -> bytes:
        return bytes(reversed(value))

    def deserialize(self, data: bytes) -> Any:
        return bytes(reversed(data))


@pytest.mark.parametrize(
    ("serde", "value", "stored"),
    [
        ("bytes", b"a", b"a"),
        ("str", "grün", "grün".encode()),
        ("json", {"a": [1, None, "ü"]}, '{"a":[1,null,"ü"]}'.encode()),
        (Reversed(), b"abc", b"cba"),
    ],
)
def test_values_go_out_and_come_back_through_a_serde(
    engine: pylog.Engine, serde: Any, value: Any, stored: bytes
) -> None:
    with engine.producer(key_serde=serde, value_serde=serde) as producer:
        producer.send("t", value, value)
        producer.send("t", None)
    assert [(r.key, r.value) for r in engine.read("t")] == [(stored, stored), (None, None)]
    consumer = engine.consumer("t", auto_offset_reset="earliest", key_serde=serde, value_serde=serde)
    first, second = consumer.poll()
    assert (first.key, first.value, second.key, second.value) == (value, value, None, None)


def test_what_a_serde_refuses_is_not_sent(engine: pylog.Engine) -> None:
    with engine.producer(value_serde="json", linger_ms=LONG) as producer:
        with pytest.raises(pylog.SerializationError, match="JSON"):
            producer.send("t", {1, 2})
        with pytest.raises(pylog.SerializationError):
            producer.send("t", float("nan"))
        producer.send("t", 1)
    with engine.producer(value_serde="str") as producer:
        with pytest.raises(TypeError):
            producer.send("t", b"bytes")
        with pytest.raises(pylog.SerializationError, match="UTF-8"):
            producer.send("t", "\ud800")
    with engine.producer() as producer, pytest.raises(TypeError, match="bytes"):
        producer.send("t", "str")
    assert values(engine) == [b"1"]


def test_what_a_serde_cannot_read_is_told_with_its_place(engine: pylog.Engine) -> None:
    engine.append("t", b"\xff")
    engine.append("t", b"3")
    bad, good = engine.consumer("t", auto_offset_reset="earliest", value_serde="json").poll()
    with pytest.raises(pylog.SerializationError, match="t-0 at offset 0") as caught:
        bad.value  # noqa: B018
    assert (caught.value.topic, caught.value.offset, caught.value.part) == ("t", 0, "value")
    assert (bad.raw.value, good.value, json.dumps(good.value)) == (b"\xff", 3, "3")  # type: ignore[attr-defined]


# ---- reports and failures ------------------------------------------------------------------------------


def test_each_batch_is_reported_with_its_offsets(engine: pylog.Engine) -> None:
    reports: list[tuple[list[pylog.RecordId], BaseException | None]] = []
    report = lambda ids, error: reports.append((list(ids), error))  # noqa: E731
    with engine.producer(linger_ms=LONG, on_delivery=report) as producer:
        for n in range(3):
            producer.send("four", b"%d" % n, partition=n % 2)
    ids = [pylog.RecordId("four", p, o) for p, o in ((0, 0), (0, 1), (1, 0))]
    assert sorted(found for batch, _ in reports for found in batch) == ids
    assert [error for _, error in reports] == [None, None]


def test_a_failed_flush_keeps_the_records_and_says_so_until_they_are_written(engine: pylog.Engine) -> None:
    reports: list[BaseException | None] = []
    producer = engine.producer(linger_ms=LONG, on_delivery=lambda ids, error: reports.append(error))
    producer.send("t", BIG)
    with full_disk():
        for _ in range(2):
            with pytest.raises(pylog.DiskFullError):
                producer.flush()
    assert [type(error) for error in reports] == [pylog.DiskFullError] * 2
    assert values(engine) == []
    producer.flush()
    assert values(engine) == [BIG]
    assert reports[2:] == [None]
    producer.close()


def test_a_failed_write_in_the_background_is_told_by_the_next_call_and_tried_again(
    engine: pylog.Engine,
) -> None:
    failed = threading.Event()
    consumer = engine.consumer("t", auto_offset_reset="earliest")
    producer = engine.producer(linger_ms=1, on_delivery=lambda ids, error: error and failed.set())
    with full_disk():
        producer.send("t", BIG)
        assert failed.wait(60)
        with pytest.raises(pylog.DiskFullError):
            producer.send("t", b"refused")
    assert [record.value for record in consumer.poll(timeout=60)] == [BIG]
    producer.flush()
    producer.close()
    assert values(engine) == [BIG]


def test_a_close_that_fails_says_how_much_is_lost(engine: pylog.Engine) -> None:
    producer = engine.producer(linger_ms=LONG)
    producer.send("t", BIG)
    with full_disk(), pytest.raises(pylog.DiskFullError) as caught:
        producer.close()
    assert "1 records were not written" in caught.value.__notes__[0]
    assert values(engine) == []


def test_9e_a_full_buffer_raises_or_blocks_until_it_is_written(engine: pylog.Engine) -> None:
    options: dict[str, Any] = {"linger_ms": LONG, "batch_bytes": 1 << 16, "buffer_bytes": 1 << 16}
    raising = engine.producer(when_full="raise", **options)
    with pytest.raises(pylog.BufferFullError, match="buffer_bytes"):
        for n in range(10_000):
            raising.send("four", b"x" * 1000, partition=n % 4)
    kept = raising.metrics()["records_buffered"]
    assert kept > 60
    raising.flush()
    raising.send("four", b"again", partition=0)
    raising.close()
    assert len(values(engine, "four")) == raising.metrics()["records_sent"]

    with engine.producer(**options) as blocking:
        for n in range(1000):
            blocking.send("four", b"y" * 1000, partition=n % 4)
            assert blocking.metrics()["bytes_buffered"] <= (1 << 16) + 2000
    assert values(engine, "four").count(b"y" * 1000) == 1000


def test_an_unknown_topic_is_refused_by_send_itself(engine: pylog.Engine) -> None:
    with engine.producer() as producer:
        for _ in range(2):
            with pytest.raises(pylog.UnknownTopicError):
                producer.send("none", b"x")
        producer.send("t", b"x")
    assert values(engine) == [b"x"]


def test_what_was_sent_to_a_topic_deleted_since_is_told(engine: pylog.Engine) -> None:
    reports: list[tuple[Sequence[pylog.RecordId], BaseException | None]] = []
    producer = engine.producer(linger_ms=LONG, on_delivery=lambda ids, error: reports.append((ids, error)))
    producer.send("t", b"x")
    engine.delete_topic("t")
    with pytest.raises(pylog.UnknownTopicError):
        producer.flush()
    assert [(list(ids), type(error)) for ids, error in reports] == [([], pylog.UnknownTopicError)]
    engine.create_topic("t")
    producer.send("t", b"y")
    producer.close()
    assert values(engine) == [b"y"]


def test_metrics_add_up(engine: pylog.Engine) -> None:
    producer = engine.producer(linger_ms=LONG)
    for _ in range(5):
        producer.send("t", b"x")
    found = producer.metrics()
    assert (found["records_sent"], found["records_buffered"], found["records_written"]) == (5, 5, 0)
    producer.flush()
    found = producer.metrics()
    assert (found["records_buffered"], found["bytes_buffered"], found["records_written"]) == (0, 0, 5)
    assert (found["batches_written"], found["failed_writes"]) == (1, 0)


# ---- idempotence ---------------------------------------------------------------------------------------


def load(engine: pylog.Engine, rows: range, *, topic: str = "four", stop_at: int | None = None) -> None:
    """What a loader does that is started again after each failure."""
    with engine.producer(producer_id="loader", linger_ms=LONG) as producer:
        for n in rows[producer.resume_from(topic) :]:
            if n == stop_at:
                raise RuntimeError
            producer.send(topic, b"%d" % n, key=b"%d" % (n % 7), sequence=n)


def test_a_loader_that_starts_again_loses_and_doubles_nothing(data: Path) -> None:
    rows = range(1000)
    for stop_at in (0, 1, 333, 334, 990, None, None):
        with pylog.open(data) as engine:
            engine.create_topic("four", partitions=4)
            with contextlib.suppress(RuntimeError):
                load(engine, rows, stop_at=stop_at)
    with pylog.open(data) as engine:
        found = [int(value or b"") for value in values(engine, "four")]
        assert sorted(found) == list(rows)
        for partition in range(4):
            sequences = [record.sequence for record in engine.read("four", partition)]
            assert sequences == sorted(sequences)  # type: ignore[type-var]


def test_a_killed_loader_is_resumed_without_loss_or_double(data: Path, engine: pylog.Engine) -> None:
    script = """
import itertools, sys, pylog
with pylog.open(sys.argv[1]) as engine:
    producer = engine.producer(producer_id="loader", linger_ms=0, batch_bytes=1024)
    for n in itertools.count(producer.resume_from("four")):
        producer.send("four", b"%d" % n, key=b"%d" % (n % 7), sequence=n)
        if n % 500 == 499:
            print(n, flush=True)
"""
    for _ in range(3):
        with Child(script, data) as child:
            child.says()
            child.says()
            child.kill()
    with engine.producer(producer_id="loader") as producer:
        start = producer.resume_from("four")
        end = max(record.sequence or 0 for record in engine.read("four")) + 100
        for n in range(start, end):
            producer.send("four", b"%d" % n, key=b"%d" % (n % 7), sequence=n)
    assert sorted(int(value or b"") for value in values(engine, "four")) == list(range(end))


def test_the_last_sequence_is_told_by_partition(engine: pylog.Engine) -> None:
    with engine.producer(producer_id="p", linger_ms=LONG) as producer:
        assert producer.last_sequence("four", 0) is None
        assert producer.resume_from("four") == 0
        for n in range(6):
            producer.send("four", b"x", sequence=10 * n)
        producer.flush()
        assert [producer.last_sequence("four", p) for p in range(4)] == [40, None, 50, None]
        assert producer.resume_from("t") == 0
    with engine.producer() as plain, pytest.raises(pylog.ConfigError, match="producer_id"):
        plain.resume_from("four")


def test_what_was_sent_before_is_dropped_and_counted(engine: pylog.Engine) -> None:
    with engine.producer(producer_id="p") as producer:
        for sequence in (5, 5, 3, 6, 9, 6):
            producer.send("t", b"%d" % sequence, sequence=sequence)
        assert producer.metrics()["duplicates_dropped"] == 3
    assert values(engine) == [b"5", b"6", b"9"]
    with pytest.raises(pylog.ConfigError), engine.producer() as plain:
        plain.send("t", b"x", sequence=1)


def test_9d_who_opens_an_id_fences_who_had_it(engine: pylog.Engine, data: Path) -> None:
    older = engine.producer(producer_id="p", linger_ms=LONG)
    older.send("t", b"buffered by the older", sequence=0)
    with pylog.open(data) as other, other.producer(producer_id="p") as newer:
        newer.send("t", b"newer", sequence=0)
    with pytest.raises(pylog.FencedError, match="'p'"):
        older.flush()
    with pytest.raises(pylog.FencedError):
        older.close()
    assert values(engine) == [b"newer"]


# ---- threads and forks ---------------------------------------------------------------------------------


def test_threads_share_a_producer_that_lingers(engine: pylog.Engine) -> None:
    with engine.producer(linger_ms=1, batch_bytes=4096) as producer:

        def work(name: int) -> None:
            for n in range(2000):
                producer.send("t", b"%d %d" % (name, n))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [tuple(map(int, (value or b"").split())) for value in values(engine)]
    assert len(found) == 8000
    for name in range(4):
        assert [n for who, n in found if who == name] == list(range(2000))


def test_a_forked_child_writes_what_it_sends_and_nothing_of_its_parents(engine: pylog.Engine) -> None:
    producer = engine.producer(linger_ms=LONG)
    producer.send("t", b"parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            producer.send("t", b"child")
            producer.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert values(engine) == [b"child"]
    producer.close()
    assert values(engine) == [b"child", b"parent"]


def test_an_idempotent_producer_in_a_forked_child_leaves_the_parents_alone(engine: pylog.Engine) -> None:
    producer = engine.producer(producer_id="p", linger_ms=LONG)
    producer.send("t", b"0", sequence=0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            producer.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    producer.send("t", b"1", sequence=1)
    producer.close()
    assert values(engine) == [b"0", b"1"]


def test_an_idempotent_producer_is_remembered_across_opens_and_many_segments(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", segment_bytes=16 << 10)
        with engine.producer(producer_id="loader") as producer:
            for sequence in range(50):
                producer.send("t", bytes(1000), sequence=sequence)
        engine.append_many("t", [bytes(1000)] * 40)
    with pylog.open(data) as engine:
        for _ in range(40):
            engine.append("t", bytes(1000))
        with engine.producer(producer_id="loader") as producer:
            assert producer.last_sequence("t", 0) == 49


def test_an_idempotent_producer_is_remembered_behind_a_cut(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", segment_bytes=16 << 10)
        with engine.producer(producer_id="loader") as producer:
            for sequence in range(50):
                producer.send("t", bytes(1000), sequence=sequence)
        engine.append_many("t", [bytes(1000)] * 40)
    for name in ("clean", "control"):  # as after a power cut
        (data / "topics" / "t" / name).unlink()
    with pylog.open(data) as engine:
        assert engine.append("t", bytes(1000)).offset == 90
        assert next(iter(engine.read("t", 0, 90))).epoch == 1
        for _ in range(40):
            engine.append("t", bytes(1000))
        with engine.producer(producer_id="loader") as producer:
            assert producer.last_sequence("t", 0) == 49


def test_as_many_producers_as_wrote_into_one_segment_are_remembered(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", segment_bytes=16 << 10)
        for name in range(20):
            with engine.producer(producer_id=f"loader-{name}") as producer:
                producer.send("t", b"v", sequence=7)
        for _ in range(30):
            engine.append("t", bytes(1000))
    (data / "topics" / "t" / "control").unlink()
    with pylog.open(data) as engine:
        for _ in range(30):
            engine.append("t", bytes(1000))
        for name in range(20):
            with engine.producer(producer_id=f"loader-{name}") as producer:
                assert producer.last_sequence("t", 0) == 7


def test_more_producers_than_a_footer_holds_leave_room_for_records(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", segment_bytes=16 << 10)
        for name in range(40):
            with engine.producer(producer_id=f"loader-{name}") as producer:
                producer.send("t", b"v", sequence=7)
            engine.append("t", bytes(4500))
        with pytest.raises(pylog.RecordTooLargeError):
            engine.append("t", bytes(5000))
        for name in (39, 8):  # 32 of them are kept, an entry for each 512 bytes of a segment
            with engine.producer(producer_id=f"loader-{name}") as producer:
                assert producer.last_sequence("t", 0) == 7
        assert len(values(engine)) == 80
