"""A batch as it is read: records, columns, views, and what a damaged one does."""

from __future__ import annotations

import copy
import pickle
import struct
import sys

import numpy
import oracle
import oracle_writer
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from oracle_writer import Choices

from logcore.batch import Record, RecordBatch, parse_batch
from logcore.errors import CorruptionError

SALT, POSITION = 0x1234_5678_9ABC_DEF0, 4224
small_bytes = st.binary(max_size=20)
nullable = st.none() | small_bytes
names = st.text(st.characters(codec="utf-8"), max_size=6)
headers = st.lists(st.tuples(names, st.none() | small_bytes), max_size=3).map(tuple)
times = st.integers(-(2**63) + 1, 2**63 - 1)


@st.composite
def record_lists(draw: st.DrawFn) -> list[oracle.Record]:
    gap = draw(st.sampled_from([1, 3]))
    offset, sequence = draw(st.integers(0, 2**40)), draw(st.integers(0, 2**40))
    content = draw(st.lists(st.tuples(nullable, nullable, headers), min_size=1, max_size=20))
    stamps = draw(st.lists(times, min_size=1, max_size=3))
    return [
        oracle.Record(
            offset + gap * i + i // 7, stamps[i % len(stamps)], key, value, record_headers, sequence + i * gap
        )
        for i, (key, value, record_headers) in enumerate(content)
    ]


def choices(draw: st.DrawFn, records: list[oracle.Record]) -> Choices:
    return Choices(
        codec=draw(st.sampled_from([0, 1])),
        epoch=draw(st.integers(0, 2**32 - 1)),
        producer=draw(st.none() | st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))),
        transaction=draw(st.none() | st.binary(min_size=16, max_size=16)),
        spread=draw(st.booleans()),
        span=draw(st.none() | st.just(records[-1].offset - records[0].offset + 5)),
    )


def rows(batch: RecordBatch) -> list[tuple[object, ...]]:
    return [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers), r.sequence) for r in batch]


@given(st.data())
def test_whatever_the_document_allows_is_read_as_the_oracle_reads_it(data: st.DataObject) -> None:
    records = data.draw(record_lists())
    chosen = choices(data.draw, records)
    encoded = oracle_writer.encode_batch(records, chosen, SALT, POSITION)

    batch = parse_batch(encoded, SALT, POSITION, "t", 3)

    expected = oracle.records(oracle.parse_batch(bytes(POSITION) + encoded, POSITION, SALT))
    assert rows(batch) == [(r.offset, r.timestamp, r.key, r.value, r.headers, r.sequence) for r in expected]
    assert batch.epoch == chosen.epoch
    assert (batch.producer_id, batch.producer_epoch) == (chosen.producer or (None, None))
    span = chosen.span or records[-1].offset + 1 - records[0].offset
    assert batch.next_offset == records[0].offset + span
    assert batch.offsets.tolist() == [r.offset for r in expected]
    assert batch.timestamps.tolist() == [r.timestamp for r in expected]
    assert batch.value_lengths.tolist() == [len(r.value or b"") for r in expected]
    assert batch.key_lengths.tolist() == [len(r.key or b"") for r in expected]
    assert batch.keys() == [r.key for r in expected]
    assert batch.values() == [r.value for r in expected]


def encoded(count: int = 3, **chosen: object) -> bytes:
    records = [
        oracle.Record(10 + i, 1000 + i, b"k%d" % i, b"value-%d" % i, (("h", b"x"),), i) for i in range(count)
    ]
    return oracle_writer.encode_batch(records, Choices(**chosen), SALT, POSITION)  # type: ignore[arg-type]


def batch_of(count: int = 3, **chosen: object) -> RecordBatch:
    return parse_batch(encoded(count, **chosen), SALT, POSITION, "orders", 2)


def test_a_batch_is_a_sequence_of_records() -> None:
    batch = batch_of(5)

    assert len(batch) == 5
    assert [record.offset for record in batch] == [10, 11, 12, 13, 14]
    assert batch[-1].value == b"value-4"
    assert [record.offset for record in batch[1:3]] == [11, 12]
    assert [record.offset for record in batch[::-2]] == [14, 12, 10]
    with pytest.raises(IndexError, match="5 is outside of 5 records"):
        batch[5]
    with pytest.raises(IndexError):
        batch[-6]


def test_a_record_says_what_and_where_it_is() -> None:
    record = batch_of(epoch=4)[1]

    assert (record.topic, record.partition, record.offset, record.epoch) == ("orders", 2, 11, 4)
    assert (record.key, record.value, record.headers) == (b"k1", b"value-1", [("h", b"x")])
    assert record.timestamp == 1001
    assert record.sequence is None
    assert repr(record) == (
        "Record(topic='orders', partition=2, offset=11, timestamp=1001, key=b'k1', value=b'value-1')"
    )


def test_records_of_equal_place_and_content_are_equal_and_hash_alike() -> None:
    first, second = batch_of()[0], batch_of(codec=1)[0]

    assert first == second
    assert hash(first) == hash(second)
    assert first != batch_of()[1]
    assert first != "a record"
    assert copy.copy(first) is first
    assert copy.deepcopy(first) is first


def test_records_and_batches_are_neither_made_nor_pickled_by_hand() -> None:
    batch = batch_of()

    for kind in (Record, RecordBatch):
        with pytest.raises(TypeError):
            kind()
    for thing in (batch, batch[0]):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(thing)
    with pytest.raises(AttributeError):
        batch[0].value = b"other"  # type: ignore[misc]


def test_an_object_that_skipped_its_making_is_harmless() -> None:
    with pytest.raises(AttributeError):
        _ = Record.__new__(Record).value
    empty = RecordBatch.__new__(RecordBatch)
    assert list(empty) == []
    assert empty.values() == []
    with pytest.raises(BufferError):
        memoryview(empty)


def test_views_share_the_memory_and_outlive_the_batch() -> None:
    data = encoded()
    before = sys.getrefcount(data)
    batch = parse_batch(data, SALT, POSITION)
    assert sys.getrefcount(data) == before + 1

    values, offsets, times = batch.value_data, batch.value_offsets, batch.timestamps
    del batch
    assert sys.getrefcount(data) == before + 1
    assert values.tobytes() == b"value-0value-1value-2"
    assert offsets.tolist() == [0, 7, 14, 21]
    assert times.tolist() == [1000, 1001, 1002]
    body = numpy.frombuffer(data, numpy.uint8)
    assert all(numpy.shares_memory(body, view) for view in (values, offsets, times))
    assert not any(view.flags.writeable for view in (values, offsets, times))
    del values, offsets, times
    assert sys.getrefcount(data) - before <= 1  # `body`


def test_a_batch_without_keys_has_no_key_column() -> None:
    records = [oracle.Record(0, 5, None, b"v")]
    batch = parse_batch(oracle_writer.encode_batch(records, Choices(), SALT, POSITION), SALT, POSITION)

    assert batch.key_offsets is None
    assert batch.key_data is None
    assert batch.key_lengths.tolist() == [0]
    assert batch.keys() == [None]
    assert batch[0].headers == []


def test_the_raw_body_is_a_read_only_buffer() -> None:
    view = memoryview(batch_of())

    assert view.readonly
    assert bytes(view) == oracle.raw_body(oracle.parse_batch(bytes(POSITION) + encoded(), POSITION, SALT))


@given(st.data())
def test_no_flipped_bit_is_ever_read(data: st.DataObject) -> None:
    whole = encoded(codec=data.draw(st.sampled_from([0, 1])), producer=(7, 1))
    at = data.draw(st.integers(0, len(whole) - 1))
    broken = whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :]

    with pytest.raises(CorruptionError):
        parse_batch(broken, SALT, POSITION)


@given(st.integers(0, 10_000))
def test_no_truncated_batch_is_ever_read(cut: int) -> None:
    whole = encoded()
    with pytest.raises(CorruptionError):
        parse_batch(whole[: cut % len(whole)], SALT, POSITION)


def test_a_batch_is_valid_only_where_it_was_written() -> None:
    for salt, position in ((SALT + 1, POSITION), (SALT, POSITION + 8)):
        with pytest.raises(CorruptionError, match="no valid batch header"):
            parse_batch(encoded(), salt, position)


def resealed(batch: bytes) -> bytes:
    """Make both checksums right again, as somebody who forges a batch would."""
    attributes = struct.unpack_from("<I", batch, 20)[0]
    blocks = sum(size for bit, size in oracle.BLOCK_BYTES.items() if attributes & bit)
    batch = batch[:48] + struct.pack("<Q", oracle.xxh3(batch[64 + blocks :])) + batch[56:]
    checksum = oracle.header_checksum(batch[:56] + batch[64 : 64 + blocks], SALT, POSITION)
    return batch[:56] + struct.pack("<Q", checksum) + batch[64:]


@given(st.data())
def test_a_forged_batch_is_read_as_the_oracle_reads_it_or_refused(data: st.DataObject) -> None:
    forged = bytearray(encoded(data.draw(st.integers(1, 9)), producer=data.draw(st.none() | st.just((7, 1)))))
    words = st.sampled_from([bytes(4), b"\xff" * 4]) | st.binary(min_size=4, max_size=4)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(16, len(forged) - 4).filter(lambda at: not 48 <= at < 64))
        forged[at : at + 4] = data.draw(words)
    sealed = resealed(bytes(forged))
    try:
        batch = parse_batch(sealed, SALT, POSITION)
    except CorruptionError:
        return
    try:
        expected = oracle.records(oracle.parse_batch(bytes(POSITION) + sealed, POSITION, SALT))
    except (oracle.BrokenError, UnicodeDecodeError) as refused:
        raise AssertionError(f"the oracle refuses it: {refused}") from refused
    assert rows(batch) == [(r.offset, r.timestamp, r.key, r.value, r.headers, r.sequence) for r in expected]


def with_frame(frame: bytes, raw_body_bytes: int) -> bytes:
    """A batch whose zstd frame is the given one."""
    head = bytearray(encoded()[:72])
    stored = oracle_writer.padded(struct.pack("<II", len(frame), 0) + frame)
    attributes = struct.unpack_from("<I", head, 20)[0] | 1
    struct.pack_into("<I", head, 4, len(head) + len(stored))
    struct.pack_into("<I", head, 20, attributes)
    struct.pack_into("<I", head, 28, raw_body_bytes)
    return resealed(bytes(head) + stored)


def test_a_frame_that_states_another_size_than_the_header_is_refused() -> None:
    body = oracle.raw_body(oracle.parse_batch(bytes(POSITION) + encoded(), POSITION, SALT))
    parse_batch(with_frame(zstandard.compress(body), len(body)), SALT, POSITION)

    with pytest.raises(CorruptionError, match="states another size"):
        parse_batch(with_frame(zstandard.compress(body + bytes(8)), len(body)), SALT, POSITION)


def test_a_frame_that_states_no_size_is_refused() -> None:
    body = bytes(64)
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(body)

    with pytest.raises(CorruptionError, match="states another size"):
        parse_batch(with_frame(frame, len(body)), SALT, POSITION)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.compress(bytes(64 << 20))

    with pytest.raises(CorruptionError, match="beyond the limit of 1048576"):
        parse_batch(with_frame(bomb, 64 << 20), SALT, POSITION, max_body_bytes=1 << 20)


def test_a_frame_with_a_huge_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=25)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    body = bytes(64 << 20)

    with pytest.raises(CorruptionError, match="window"):
        parse_batch(with_frame(compressor.compress(body), len(body)), SALT, POSITION)


def test_bytes_behind_the_frame_are_refused() -> None:
    body = oracle.raw_body(oracle.parse_batch(bytes(POSITION) + encoded(), POSITION, SALT))

    with pytest.raises(CorruptionError, match="damaged"):
        parse_batch(with_frame(zstandard.compress(body) + b"more", len(body)), SALT, POSITION)


def test_a_mark_is_no_batch_of_records() -> None:
    mark = oracle_writer.encode_mark(10, 10, 0, 0, SALT, POSITION)

    with pytest.raises(CorruptionError, match="mark"):
        parse_batch(mark, SALT, POSITION)


def test_corruption_says_which_offsets_are_gone() -> None:
    whole = bytearray(encoded())
    whole[-1] ^= 1

    with pytest.raises(CorruptionError, match="does not match its checksum") as caught:
        parse_batch(bytes(whole), SALT, POSITION)

    assert (caught.value.position, caught.value.first_offset, caught.value.next_offset) == (POSITION, 10, 13)
