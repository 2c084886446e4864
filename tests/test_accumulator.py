"""The native part of a producer: what is sent arrives once, in order, or says that it did not."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import pylog
from logcore.accumulator import RecordAccumulator
from logcore.errors import (
    BufferFullError,
    ClosedError,
    ConfigError,
    DiskFullError,
    FencedError,
    RecordTooLargeError,
    UnknownTopicError,
)
from logcore.hashing import murmur2_32
from logcore.producers import ProducerIdentity
from logcore.record_ids import RecordId

Engine = pylog.Engine


def values(engine: Engine, topic: str, partition: int = 0) -> list[bytes | None]:
    return [record.value for record in engine.read(topic, partition)]


@contextlib.contextmanager
def no_space() -> Iterator[None]:
    """No file grows: what a full disk does to an append."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---- sending ---------------------------------------------------------------------------------------


def test_what_was_sent_is_there_after_a_flush_in_order(engine: Engine) -> None:
    producer = RecordAccumulator(engine)
    for n in range(1000):
        producer.send("t", b"%d" % n)
    assert engine.log_end_offset("t", 0) == 0
    assert producer.buffered_records == 1000

    producer.flush()

    assert values(engine, "t") == [b"%d" % n for n in range(1000)]
    assert (producer.buffered_records, producer.buffered_bytes) == (0, 0)


def test_a_full_batch_is_written_without_a_flush(engine: Engine) -> None:
    producer = RecordAccumulator(engine, batch_bytes=1000)
    for _ in range(100):
        producer.send("t", b"x" * 100)

    assert engine.log_end_offset("t", 0) > 80
    assert producer.buffered_bytes < 1000
    assert producer.metrics()["batches_written"] > 8


def test_a_record_arrives_as_it_was_sent(engine: Engine) -> None:
    producer = RecordAccumulator(engine)
    producer.send("t", b"v", b"k", 0, {"h": b"1"}, 17)
    producer.send("t", None, key=b"k", headers=[("a", None), ("a", b"")], timestamp=-5)
    producer.send("t", b"")
    producer.close()

    first, second, third = engine.read("t", 0)
    assert (first.key, first.value, first.headers, first.timestamp) == (b"k", b"v", [("h", b"1")], 17)
    assert (second.value, second.headers, second.timestamp) == (None, [("a", None), ("a", b"")], -5)
    assert (third.key, third.value, third.headers) == (None, b"", [])


def test_keys_go_to_the_partition_that_kafka_gives_them(engine: Engine) -> None:
    producer = RecordAccumulator(engine)
    keys = [b"key-%d" % n for n in range(200)]
    for key in keys:
        producer.send("four", b"", key=key)
    producer.flush()

    for partition in range(4):
        found = [record.key for record in engine.read("four", partition)]
        assert found == [key for key in keys if (murmur2_32(key) & 0x7FFFFFFF) % 4 == partition]


def test_records_without_a_key_share_a_partition_for_a_batch(engine: Engine) -> None:
    producer = RecordAccumulator(engine)
    for _ in range(8):
        for _ in range(10):
            producer.send("four", b"v")
        producer.flush()

    assert [engine.log_end_offset("four", partition) for partition in range(4)] == [20, 20, 20, 20]


def test_several_topics_take_turns(engine: Engine) -> None:
    producer = RecordAccumulator(engine)
    for n in range(100):
        producer.send("t", b"t%d" % n)
        producer.send("four", b"f%d" % n, partition=2)
    producer.flush()

    assert values(engine, "t") == [b"t%d" % n for n in range(100)]
    assert values(engine, "four", 2) == [b"f%d" % n for n in range(100)]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("t", "text"), TypeError, "not str"),
        (("t", b"", 7), TypeError, "not int"),
        ((b"t", b""), TypeError, "named by a str"),
        (("unknown", b""), UnknownTopicError, "unknown"),
        (("t", b"", None, 1), ConfigError, "partition 1"),
        (("t", b"", None, "0"), TypeError, "partition is an int"),
        (("t", b"", None, None, {"h": "text"}), TypeError, "header 'h'"),
        (("t", b"", None, None, None, 1.5), TypeError, "timestamp"),
        (("t", b"", None, None, None, None, 1), ConfigError, "producer_id"),
        (("t", bytes(2 << 20)), RecordTooLargeError, "max_record_bytes"),
        (("t", b"", bytes(2 << 20)), RecordTooLargeError, "max_record_bytes"),
    ],
)
def test_a_wrong_record_is_refused_by_its_own_send(
    engine: Engine, arguments: tuple[object, ...], error: type[Exception], said: str
) -> None:
    producer = RecordAccumulator(engine)
    producer.send("t", b"before")

    with pytest.raises(error, match=said):
        producer.send(*arguments)  # type: ignore[arg-type]

    producer.close()
    assert values(engine, "t") == [b"before"]


# ---- failures --------------------------------------------------------------------------------------


def test_a_failed_flush_keeps_the_records_and_a_later_one_writes_them(engine: Engine) -> None:
    producer = RecordAccumulator(engine)
    for n in range(2000):
        producer.send("t", b"%0100d" % n)

    with no_space(), pytest.raises(DiskFullError):
        producer.flush()
    assert producer.buffered_records == 2000
    assert values(engine, "t") == []

    producer.flush()
    assert values(engine, "t") == [b"%0100d" % n for n in range(2000)]


def test_a_batch_that_send_could_not_write_raises_from_the_next_call_and_nothing_is_lost(
    engine: Engine,
) -> None:
    producer = RecordAccumulator(engine, batch_bytes=20_000)
    taken, refused = [], 0
    with no_space():
        for n in range(400):
            try:
                producer.send("t", b"%0100d" % n)
                taken.append(n)
            except DiskFullError:
                refused += 1
    assert refused > 100
    assert producer.buffered_bytes < 21_000

    producer.flush()
    assert values(engine, "t") == [b"%0100d" % n for n in taken]


def test_close_raises_what_a_send_could_not_write_and_says_how_much_is_lost(engine: Engine) -> None:
    producer = RecordAccumulator(engine)
    for _ in range(100):
        producer.send("t", bytes(1000))
    with no_space(), pytest.raises(DiskFullError) as caught:
        producer.close()

    assert caught.value.__notes__ == ["100 records were not written: the producer is closed"]
    for call in (lambda: producer.send("t", b""), producer.flush):
        with pytest.raises(ClosedError):
            call()
    producer.close()


def test_a_full_buffer_raises_where_it_was_told_to(engine: Engine) -> None:
    producer = RecordAccumulator(engine, buffer_bytes=1000, raise_when_full=True)
    with pytest.raises(BufferFullError, match="buffer_bytes=1000"):
        for _ in range(100):
            producer.send("t", b"x" * 100)

    producer.flush()
    producer.send("t", b"room again")


def test_a_full_buffer_is_written_where_nobody_was_told_otherwise(engine: Engine) -> None:
    producer = RecordAccumulator(engine, buffer_bytes=1000)
    for n in range(400):
        producer.send("four", b"x" * 100, partition=n % 4)
        assert producer.buffered_bytes < 1200
    producer.close()

    assert sum(engine.log_end_offset("four", partition) for partition in range(4)) == 400


def test_a_deleted_topic_takes_what_was_sent_to_it_along(engine: Engine) -> None:
    producer = RecordAccumulator(engine)
    producer.send("t", b"lost")
    producer.send("four", b"kept", partition=0)
    engine.delete_topic("t")

    with pytest.raises((UnknownTopicError, ClosedError)):
        producer.flush()

    assert values(engine, "four") == [b"kept"]
    assert producer.buffered_records == 0
    with pytest.raises(UnknownTopicError):
        producer.send("t", b"v")
    engine.create_topic("t", partitions=2)
    producer.send("t", b"anew", partition=1)
    producer.flush()
    assert values(engine, "t", 1) == [b"anew"]


def test_a_topic_made_anew_gets_nothing_that_was_sent_to_the_old_one(engine: Engine) -> None:
    producer = RecordAccumulator(engine)
    producer.send("t", b"to the old one")
    engine.delete_topic("t")
    engine.create_topic("t", partitions=1)

    with pytest.raises(UnknownTopicError, match="dropped"):
        producer.flush()

    producer.send("t", b"to the new one")
    producer.flush()
    assert values(engine, "t") == [b"to the new one"]


def test_deliveries_are_reported_batch_by_batch(engine: Engine) -> None:
    reports: list[tuple[Sequence[RecordId], BaseException | None]] = []
    producer = RecordAccumulator(engine, on_delivery=lambda ids, error: reports.append((ids, error)))
    for _ in range(100):
        producer.send("t", bytes(1000))
    with no_space(), pytest.raises(DiskFullError):
        producer.flush()
    producer.flush()

    assert [type(error) for _, error in reports] == [DiskFullError, type(None)]
    assert list(reports[0][0]) == []
    assert reports[1][0] == [RecordId("t", 0, n) for n in range(100)]


def test_a_report_may_send_and_its_error_comes_from_the_next_call(engine: Engine) -> None:
    def answer(ids: Sequence[RecordId], error: BaseException | None) -> None:
        if ids[0].topic == "t":
            producer.send("four", b"answer", partition=0)
        else:
            raise ValueError("no more")

    producer = RecordAccumulator(engine, on_delivery=answer, batch_bytes=200)
    producer.send("t", b"question" * 50)
    with pytest.raises(ValueError, match="no more"):
        producer.flush()

    assert values(engine, "four") == [b"answer"]


def test_somebody_is_told_when_the_buffer_is_empty_no_more(engine: Engine) -> None:
    told: list[int] = []
    producer = RecordAccumulator(engine, on_buffering=lambda: told.append(producer.buffered_records))
    for _ in range(3):
        producer.send("t", b"v")
    assert producer.flush_lingering()
    producer.send("t", b"v")

    assert told == [1, 1]


def test_a_flush_in_the_background_leaves_its_error_to_the_next_call(engine: Engine) -> None:
    producer = RecordAccumulator(engine)
    for _ in range(100):
        producer.send("t", bytes(1000))
    with no_space():
        assert not producer.flush_lingering()

    with pytest.raises(DiskFullError):
        producer.send("t", b"refused")
    producer.send("t", b"taken")
    producer.flush()
    assert engine.log_end_offset("t", 0) == 101


# ---- threads and forks -------------------------------------------------------------------------------


def test_threads_share_a_producer_and_each_keeps_its_order(engine: Engine) -> None:
    producer = RecordAccumulator(engine, batch_bytes=20_000, buffer_bytes=100_000)
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(3000):
                producer.send("four", b"%d:%d" % (thread, n), key=b"%d" % (n % 7))
                if n % 500 == 0:
                    producer.flush()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    producer.close()

    assert failures == []
    found: list[bytes] = []
    for partition in range(4):
        records = [record.value or b"" for record in engine.read("four", partition)]
        found += records
        for number in range(4):
            mine = [int(value.split(b":")[1]) for value in records if value.startswith(b"%d:" % number)]
            assert mine == sorted(mine)
    assert sorted(found) == sorted(b"%d:%d" % (thread, n) for thread in range(4) for n in range(3000))


def test_a_full_batch_that_a_flush_wrote_first_is_not_written_again(engine: Engine) -> None:
    producer = RecordAccumulator(engine, batch_bytes=16_000)
    done = threading.Event()
    failures: list[BaseException] = []

    def flush() -> None:
        try:
            while not done.is_set():
                producer.flush()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=flush) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for n in range(2000):
            producer.send("four", b"%d" % n * 2000, partition=n % 2)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    producer.close()

    assert failures == []
    assert [engine.log_end_offset("four", partition) for partition in range(2)] == [1000, 1000]


def test_a_forked_child_writes_its_own_records_and_never_the_parents(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("t", partitions=1)
        producer = RecordAccumulator(engine)
        producer.send("t", b"of the parent")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert producer.metrics()["records_sent"] == 1
                producer.send("t", b"of the child")
                producer.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert values(engine, "t") == [b"of the child"]
        producer.close()
        assert values(engine, "t") == [b"of the child", b"of the parent"]


# ---- idempotence -------------------------------------------------------------------------------------


def loader(engine: Engine, **options: object) -> RecordAccumulator:
    identity = ProducerIdentity(engine.path, "loader")
    return RecordAccumulator(engine, identity=identity, **options)  # type: ignore[arg-type]


def test_a_replay_of_everything_adds_nothing(engine: Engine) -> None:
    for replayed_from in (0, 0, 60):
        producer = loader(engine)
        for n in range(replayed_from, 100):
            producer.send("four", b"%d" % n, key=b"%d" % (n % 11), sequence=n)
        producer.close()

    found = sorted(int(value or b"") for partition in range(4) for value in values(engine, "four", partition))
    assert found == list(range(100))


def test_a_producer_resumes_where_its_predecessor_was(engine: Engine) -> None:
    producer = loader(engine)
    assert producer.resume_from("four") == 0
    assert producer.last_sequence("four", 1) is None
    for n in range(0, 40, 2):
        producer.send("four", b"%d" % n, sequence=n, partition=n // 2 % 4)
    assert producer.resume_from("four") == 0
    producer.close()

    heir = loader(engine)
    assert [heir.last_sequence("four", partition) for partition in range(4)] == [32, 34, 36, 38]
    assert heir.resume_from("four") == 33


def test_a_sequence_chooses_the_partition_where_nothing_else_does(engine: Engine) -> None:
    producer = loader(engine)
    for n in range(10):
        producer.send("four", b"%d" % n, sequence=n)
    producer.close()

    assert values(engine, "four", 1) == [b"1", b"5", b"9"]


def test_who_was_fenced_writes_nothing_more(engine: Engine) -> None:
    old = loader(engine)
    old.send("t", b"old", sequence=0)
    new = loader(engine)
    new.send("t", b"new", sequence=0)
    new.close()

    with pytest.raises(FencedError, match="'loader'"):
        old.flush()
    assert values(engine, "t") == [b"new"]


def test_a_batch_that_failed_goes_in_once(engine: Engine) -> None:
    producer = loader(engine, batch_bytes=80_000)  # 40 KB go by a call, which a full disk fails
    for n in range(100):
        producer.send("t", b"%0400d" % n, sequence=n)
    with no_space(), pytest.raises(DiskFullError):
        producer.flush()
    for n in range(90, 150):
        producer.send("t", b"%0400d" % n, sequence=n)
    producer.flush()
    assert producer.last_sequence("t", 0) == 149

    assert values(engine, "t") == [b"%0400d" % n for n in range(150)]
    assert producer.metrics()["duplicates_dropped"] == 10


def test_sequences_of_an_idempotent_producer_are_asked_for(engine: Engine) -> None:
    producer = loader(engine)
    for sequence, error in ((None, ConfigError), (-1, ConfigError), (2**63, ConfigError), ("1", TypeError)):
        with pytest.raises(error):
            producer.send("t", b"", sequence=sequence)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="producer_id"):
        RecordAccumulator(engine).resume_from("t")
