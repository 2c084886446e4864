"""Batches as columns: numpy views without a copy, and Arrow's stream for whoever reads it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy
import polars
import pyarrow
import pytest

import pylog


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[pylog.Engine]:
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("t", segment_bytes=64 << 10)
        yield engine


def fill(engine: pylog.Engine, batches: int = 3) -> list[bytes | None]:
    values: list[bytes | None] = []
    for n in range(batches):
        some = [b"%d-%d" % (n, m) for m in range(100)]
        engine.append_many("t", some, keys=[b"k"] * 100, timestamps=[1000 * n + m for m in range(100)])
        values += some
    return values


def batches(engine: pylog.Engine) -> Iterator[pylog.RecordBatch]:
    return engine.consumer("t", auto_offset_reset="earliest").batches(timeout=0)


def test_columns_say_what_records_say(engine: pylog.Engine) -> None:
    fill(engine)
    for batch, start in zip(batches(engine), (0, 100, 200), strict=True):
        assert (batch.topic, batch.partition, batch.base_offset, len(batch)) == ("t", 0, start, 100)
        assert batch.offsets.tolist() == list(range(start, start + 100))
        assert batch.timestamps.tolist() == [10 * start + m for m in range(100)]
        assert batch.key_lengths.tolist() == [1] * 100
        records = list(batch)
        assert batch.value_lengths.tolist() == [len(record.value or b"") for record in records]
        joined = batch.value_data.tobytes()
        cut = batch.value_offsets
        assert [joined[cut[n] : cut[n + 1]] for n in range(100)] == batch.values()
        assert records == batch[:] == [batch[n] for n in range(100)]


def test_views_are_not_writable_and_hold_what_they_show(engine: pylog.Engine) -> None:
    fill(engine, 1)
    batch = next(batches(engine))
    view, expected = batch.value_data, batch.value_data.tobytes()
    assert not view.flags.writeable
    assert not view.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0
    del batch
    engine.delete_topic("t")
    engine.close()
    gc.collect()
    assert view.tobytes() == expected


def test_two_looks_at_a_column_are_looks_at_the_same_bytes(engine: pylog.Engine) -> None:
    fill(engine, 1)
    batch = next(batches(engine))
    assert numpy.shares_memory(batch.value_data, batch.value_data)
    arrow = pyarrow.record_batch(batch)
    seen = numpy.frombuffer(arrow.column("value").buffers()[2], numpy.uint8)
    assert numpy.shares_memory(seen, batch.value_data)


def test_a_compressed_batch_has_the_same_columns(engine: pylog.Engine) -> None:
    engine.alter_topic("t", compression_type="zstd")
    values = fill(engine, 1)
    (batch,) = batches(engine)
    assert (batch.codec, batch.values()) == ("zstd", values)
    assert pyarrow.table(batch).column("value").to_pylist() == values


def test_pyarrow_reads_a_batch_and_a_whole_stream(engine: pylog.Engine) -> None:
    values = fill(engine)
    table = pyarrow.table(next(batches(engine)))
    assert table.column("offset").to_pylist() == list(range(100))
    assert next(batches(engine)).to_arrow().column("key").to_pylist() == [b"k"] * 100
    whole = pyarrow.RecordBatchReader.from_stream(batches(engine)).read_all()
    assert whole.column("value").to_pylist() == values
    assert whole.column("offset").to_pylist() == list(range(300))


def test_an_error_of_the_stream_reaches_its_reader(engine: pylog.Engine, tmp_path: Path) -> None:
    fill(engine)
    reader = pyarrow.RecordBatchReader.from_stream(batches(engine))
    assert reader.read_next_batch().num_rows == 100
    engine.delete_topic("t")
    with pytest.raises(OSError, match="deleted"):
        reader.read_all()


def test_polars_reads_a_batch_and_a_stream(engine: pylog.Engine) -> None:
    values = fill(engine)
    assert polars.DataFrame(next(batches(engine)))["value"].to_list() == values[:100]
    assert polars.DataFrame(batches(engine))["value"].to_list() == values


def test_duckdb_reads_a_stream(engine: pylog.Engine) -> None:
    fill(engine)
    query = 'select count(*), max("offset"), sum("offset") from stream'
    stream = batches(engine)
    assert duckdb.sql(query).fetchall() == [(300, 299, 299 * 300 // 2)]
    stream = pyarrow.RecordBatchReader.from_stream(batches(engine))  # noqa: F841 - named in the SQL
    assert duckdb.sql(query).fetchall() == [(300, 299, 299 * 300 // 2)]


def test_each_pull_of_a_stream_may_come_from_another_thread(engine: pylog.Engine) -> None:
    values = fill(engine)
    consumer = engine.consumer("t", auto_offset_reset="earliest")
    reader = pyarrow.RecordBatchReader.from_stream(consumer.batches(timeout=0))
    read: list[bytes | None] = []
    for _ in range(3):
        with ThreadPoolExecutor(1) as thread:
            read += thread.submit(reader.read_next_batch).result().column("value").to_pylist()
    assert read == values
    assert consumer.poll(timeout=0) == []


def test_a_consumer_in_use_is_not_taken_by_the_reader_of_its_stream(engine: pylog.Engine) -> None:
    fill(engine)
    consumer = engine.consumer("t", auto_offset_reset="earliest")
    reader = pyarrow.RecordBatchReader.from_stream(consumer.batches(timeout=0))
    consumer.poll(max_records=1)
    with ThreadPoolExecutor(1) as thread, pytest.raises(OSError, match="belongs to the thread"):
        thread.submit(reader.read_next_batch).result()
    assert consumer.poll(max_records=1)[0].offset == 1


@pytest.mark.soak
def test_a_segment_takes_no_more_offsets_than_its_index_can_name(tmp_path: Path) -> None:
    empty = (numpy.zeros((1 << 20) + 1, numpy.int32), numpy.zeros(0, numpy.uint8))  # compresses to 2 KB
    with pylog.open(tmp_path / "data") as engine:
        engine.create_topic("t", compression_type="zstd", durability="os")
        for _ in range((1 << 12) + 2):
            engine.append_many("t", empty)
        bases = sorted(int(path.stem) for path in (tmp_path / "data/topics/t/0").glob("*.log"))
        assert bases == [0, 1 << 31, 1 << 32]
        end = engine.log_end_offset("t", 0)
        for offset in (0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) + 7, end - 1):
            assert next(iter(engine.read("t", 0, offset))).offset == offset
