"""Deleting records up to an offset: what goes, what stays, and what everybody else is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child
from oracle_partition import read_partition

import pylog

SEGMENT_BYTES = 16 << 10


@pytest.fixture
def engine(data: Path) -> Iterator[pylog.Engine]:
    """An engine whose topic t has 100 records of 1000 bytes in several segments."""
    with pylog.open(data) as engine:
        engine.create_topic("t", segment_bytes=SEGMENT_BYTES)
        fill(engine)
        yield engine


def fill(engine: pylog.Engine, first: int = 0) -> None:
    for number in range(first, first + 100):
        engine.append("t", value_of(number))


def value_of(number: int) -> bytes:
    return f"{number:04d}".encode() * 250


def segments(data: Path) -> list[Path]:
    return sorted((data / "topics" / "t" / "0").glob("*.log"))


def numbers(engine: pylog.Engine) -> list[int]:
    return [int(record.value[:4]) for record in engine.read("t", 0) if record.value is not None]


def test_records_before_the_offset_are_gone_and_the_rest_stay(engine: pylog.Engine) -> None:
    assert engine.delete_records("t", 0, 42) == 42
    assert (engine.log_start_offset("t", 0), engine.log_end_offset("t", 0)) == (42, 100)
    assert numbers(engine) == list(range(42, 100))
    with pytest.raises(pylog.OffsetOutOfRangeError) as caught:
        engine.read("t", 0, 41)
    assert (caught.value.offset, caught.value.log_start_offset, caught.value.log_end_offset) == (41, 42, 100)


def test_files_go_when_nothing_else_is_in_them(data: Path, engine: pylog.Engine) -> None:
    before = segments(data)
    engine.delete_records("t", 0, 42)
    after = segments(data)
    assert 0 < len(after) < len(before)
    assert int(after[0].stem) <= 42 < int(after[1].stem)
    assert {path.stem for path in after[0].parent.glob("*.index")} <= {path.stem for path in after}


def test_the_log_start_offset_never_goes_back(engine: pylog.Engine) -> None:
    engine.delete_records("t", 0, 42)
    assert engine.delete_records("t", 0, 7) == 42
    assert engine.delete_records("t", 0, 0) == 42
    assert numbers(engine) == list(range(42, 100))


def test_all_records_may_be_deleted_and_offsets_go_on(data: Path, engine: pylog.Engine) -> None:
    assert engine.delete_records("t", 0, 100) == 100
    assert numbers(engine) == []
    assert engine.append("t", value_of(100)).offset == 100
    assert numbers(engine) == [100]
    assert [record.offset for record in read_partition(data / "topics" / "t" / "0").records()] == [100]


@pytest.mark.parametrize("offset", [-1, 101, 1 << 62])
def test_an_offset_that_the_log_does_not_have_is_refused(engine: pylog.Engine, offset: int) -> None:
    with pytest.raises(pylog.OffsetOutOfRangeError) as caught:
        engine.delete_records("t", 0, offset)
    assert (caught.value.offset, caught.value.log_end_offset) == (offset, 100)
    assert numbers(engine) == list(range(100))


def test_what_is_no_offset_is_refused(engine: pylog.Engine) -> None:
    for wrong in (True, 1.0, "7", None):
        with pytest.raises(TypeError, match="offset"):
            engine.delete_records("t", 0, wrong)  # type: ignore[arg-type]


def test_what_is_deleted_was_on_disk_before(engine: pylog.Engine) -> None:
    engine.alter_topic("t", durability="os")
    fill(engine, 100)
    engine.delete_records("t", 0, 200)
    assert engine.synced_offset("t", 0) == 200


def test_a_segment_sealed_just_now_is_synced_before_it_goes(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", segment_bytes=SEGMENT_BYTES, durability="sync")
        while len(segments(data)) < 2:
            engine.append("t", bytes(1000))
        # all records of the sealed segment are on disk, its footer is not
        engine.delete_records("t", 0, int(segments(data)[-1].stem))
        engine.sync()
        for _ in range(40):
            engine.append("t", bytes(1000))
        assert len(segments(data)) > 2


def test_it_holds_after_the_next_open(data: Path, engine: pylog.Engine) -> None:
    engine.delete_records("t", 0, 42)
    engine.close()
    for read_only in (True, False):
        with pylog.open(data, read_only=read_only) as again:
            assert numbers(again) == list(range(42, 100))


def test_segments_that_a_killed_process_left_go_at_the_next_open(data: Path, engine: pylog.Engine) -> None:
    first = segments(data)[0]
    kept = first.read_bytes()
    engine.delete_records("t", 0, 42)
    engine.close()
    first.write_bytes(kept)
    with pylog.open(data) as again:
        assert numbers(again) == list(range(42, 100))
        assert not first.exists()


def test_a_reader_goes_on_where_nothing_was_deleted(engine: pylog.Engine) -> None:
    reading = engine.read("t", 0)
    first = next(reading)
    engine.delete_records("t", 0, 1)
    assert [first.offset, *(record.offset for record in reading)] == list(range(100))


def test_a_consumer_behind_the_start_is_told_the_facts(engine: pylog.Engine) -> None:
    with engine.consumer("t", auto_offset_reset="error") as consumer:
        consumer.seek_to_beginning()
        consumer.poll(10)
        engine.delete_records("t", 0, 42)
        for _ in range(2):
            with pytest.raises(pylog.OffsetOutOfRangeError) as caught:
                consumer.poll(10)
            assert (caught.value.offset, caught.value.log_start_offset) == (10, 42)
        consumer.seek(("t", 0), 42)
        assert [record.offset for record in consumer.poll(3)] == [42, 43, 44]


def test_a_consumer_behind_the_start_goes_where_auto_offset_reset_says(engine: pylog.Engine) -> None:
    with engine.consumer("t", auto_offset_reset="earliest") as consumer:
        consumer.poll(10)
        engine.delete_records("t", 0, 42)
        assert consumer.poll(1)[0].offset == 42
        engine.delete_records("t", 0, 60)
        assert next(iter(consumer.batches(timeout=0))).base_offset == 60
    with engine.consumer("t", auto_offset_reset="latest") as consumer:
        consumer.seek_to_beginning()
        engine.delete_records("t", 0, 70)
        assert consumer.poll(1) == []
        assert consumer.position(("t", 0)) == 100


def test_a_committed_offset_behind_the_start_is_reset(engine: pylog.Engine) -> None:
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        consumer.poll(10)
        consumer.commit()
    engine.delete_records("t", 0, 42)
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        assert consumer.poll(1)[0].offset == 42


def test_times_are_sought_among_what_is_left(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", segment_bytes=SEGMENT_BYTES)
        for number in range(100):
            engine.append("t", value_of(number), timestamp=number)
        engine.delete_records("t", 0, 42)
        with engine.consumer("t") as consumer:
            found = consumer.offsets_for_times({("t", 0): 3})
    assert [place.offset for place in found.values() if place is not None] == [42]


def test_a_producer_is_remembered_when_its_records_are_deleted(engine: pylog.Engine, data: Path) -> None:
    with engine.producer(producer_id="loader") as producer:
        for sequence in range(50):
            producer.send("t", value_of(sequence), sequence=sequence)
            producer.flush()
    fill(engine)
    engine.delete_records("t", 0, engine.log_end_offset("t", 0))
    engine.close()
    with pylog.open(data) as again, again.producer(producer_id="loader") as producer:
        assert producer.last_sequence("t", 0) == 49


READER = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine, engine.consumer("t", auto_offset_reset="error") as consumer:
    consumer.seek_to_beginning()
    held = list(consumer.poll(5))
    print("read", flush=True)
    sys.stdin.readline()
    print([int(record.value[:4]) for record in held], flush=True)
    try:
        consumer.poll(5)
    except pylog.OffsetOutOfRangeError as error:
        print(error.offset, error.log_start_offset, flush=True)
    consumer.seek(("t", 0), 60)
    print(consumer.poll(1)[0].offset, flush=True)
"""


def test_a_reader_in_another_process_keeps_what_it_has_and_is_told(data: Path, engine: pylog.Engine) -> None:
    with Child(READER, data) as child:
        assert child.says() == "read"
        engine.delete_records("t", 0, 60)
        child.tell()
        assert child.says() == "[0, 1, 2, 3, 4]"
        assert child.says() == "5 60"
        assert child.says() == "60"
        assert child.ends() == 0
