"""Reads segments in plain Python, written from docs/FORMAT.md alone: the judge of the native code.

It is slow and strict, shares no line with the native core and imports nothing of it. Where the core and this
module differ, one of them or the document is wrong.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import xxhash
import zstandard

MASK = 2**64 - 1
FIRST_BATCH = 4224
HEADER_COPIES = (0, 4096)
NO_TIMESTAMP = -(2**63)
KNOWN_ATTRIBUTES = 0x0000_03FF | 0x000F_0000 | 0x8000_0000
BATCH_MAGIC = b"PLB\x01"
FOOTER_MAGIC = b"PLF\x01"

CODEC = 0x7
KEYS, KEY_VALIDITY, VALUE_VALIDITY, HEADERS = (1 << bit for bit in range(3, 7))
TIMESTAMPS, DELTAS, SEQUENCES = (1 << bit for bit in range(7, 10))
MAX_TIMESTAMP, PRODUCER, TRANSACTION, OFFSET_SPAN = (1 << bit for bit in range(16, 20))
MARK = 1 << 31
BLOCK_BYTES = {MAX_TIMESTAMP: 8, PRODUCER: 32, TRANSACTION: 16, OFFSET_SPAN: 8}

Headers = tuple[tuple[str, bytes | None], ...]


class BrokenError(Exception):
    """The bytes are not what the document describes."""


# --- section 2 ------------------------------------------------------------------------------------


def rotl(value: int, by: int) -> int:
    value &= MASK
    return ((value << by) | (value >> (64 - by))) & MASK


def header_checksum(data: bytes, salt: int, position: int) -> int:
    words = struct.unpack(f"<{len(data) // 8}Q", data)
    a = salt ^ 0x9E3779B97F4A7C15
    b = (((position + len(data)) * 0xD6E8FEB86659FD93) & MASK) ^ 0xC2B2AE3D27D4EB4F
    for i, word in enumerate(words):
        if i % 2 == 0:
            a = (rotl(a ^ word, 29) * 0x9FB21C651E98DF25) & MASK
        else:
            b = (rotl(b ^ word, 31) * 0xA0761D6478BD642F) & MASK
    a ^= a >> 32
    b ^= b >> 29
    a = (rotl(a + b, 17) * 0xE7037ED1A0B428DB + b) & MASK
    return a ^ (a >> 31)


def xxh3(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data)


# --- section 3 ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SegmentHeader:
    salt: int
    base_offset: int
    epoch: int
    partition: int
    topic_uuid: bytes
    segment_bytes: int
    created: int
    start_position: int  # cumulative byte position of the partition at file position 4224
    synced_offset: int
    merged_end: int = -1


def parse_segment_header(data: bytes) -> SegmentHeader:
    if len(data) < 128 or data[:8] != b"pylogseg":
        raise BrokenError("no segment header")
    version, header_bytes, features, salt, base, epoch, partition = struct.unpack_from("<HHIQqII", data, 8)
    uuid = data[40:56]
    segment_bytes, created, start, synced, merged_end = struct.unpack_from("<QqQqq", data, 56)
    if header_checksum(data[:120], 0, 0) != struct.unpack_from("<Q", data, 120)[0]:
        raise BrokenError("checksum of the segment header")
    if version != 1 or header_bytes != 128 or features:
        raise BrokenError("a segment header of another version")
    if not 0 <= synced <= base <= 2**62 or start > 2**62 or epoch >= 2**31:
        raise BrokenError("a segment header of impossible facts")
    if not 2**14 <= segment_bytes <= 2**30:
        raise BrokenError("a segment header of impossible facts")
    return SegmentHeader(
        salt, base, epoch, partition, uuid, segment_bytes, created, start, synced, merged_end
    )


# --- section 4 ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Producer:
    id: int
    epoch: int
    first_sequence: int
    last_sequence: int


@dataclass(frozen=True)
class Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    sequence: int | None = None


@dataclass(frozen=True)
class Batch:
    position: int
    total_length: int
    base_offset: int
    record_count: int
    attributes: int
    epoch: int
    raw_body_bytes: int
    base_timestamp: int
    synced_offset: int
    body_checksum: int
    max_timestamp: int
    producer: Producer | None
    transaction: bytes | None
    offset_span: int
    stored_body: bytes = field(repr=False)

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.offset_span

    @property
    def is_mark(self) -> bool:
        return bool(self.attributes & MARK)


def parse_batch(data: bytes, position: int, salt: int) -> Batch:
    """Parse the batch whose header stands at `position` of `data`; the body is checked by records()."""
    remains = len(data) - position
    if remains < 64 or data[position : position + 4] != BATCH_MAGIC:
        raise BrokenError("no batch")
    fields = struct.unpack_from("<IqIIIIqqQQ", data, position + 4)
    total, base, count, attributes, epoch, raw, timestamp, synced, body_checksum, checksum = fields
    if total % 8 or not 64 <= total <= 2**30 or total > remains:
        raise BrokenError("length of the batch")
    blocks = sum(size for bit, size in BLOCK_BYTES.items() if attributes & bit)
    if 64 + blocks > total:
        raise BrokenError("header blocks do not fit")
    block_data = data[position + 64 : position + 64 + blocks]
    if header_checksum(data[position : position + 56] + block_data, salt, position) != checksum:
        raise BrokenError("checksum of the batch header")
    check_attributes(attributes, count, raw, total)
    maximum, span, producer, transaction, at = timestamp, count, None, None, 0
    if attributes & MAX_TIMESTAMP:
        maximum, at = struct.unpack_from("<q", block_data, at)[0], at + 8
    if attributes & PRODUCER:
        ident, producer_epoch, _, first, last = struct.unpack_from("<QIIqq", block_data, at)
        producer, at = Producer(ident, producer_epoch, first, last), at + 32
    if attributes & TRANSACTION:
        transaction, at = block_data[at : at + 16], at + 16
    if attributes & OFFSET_SPAN:
        span = struct.unpack_from("<q", block_data, at)[0]
        if span < count:
            raise BrokenError("offset span below the record count")
    if not 0 <= synced <= base <= base + span <= 2**62:
        raise BrokenError("offsets that nobody can have written")
    body = data[position + 64 + blocks : position + total]
    return Batch(
        position, total, base, count, attributes, epoch, raw, timestamp, synced, body_checksum,
        maximum, producer, transaction, span, body,
    )  # fmt: skip


def check_attributes(attributes: int, count: int, raw: int, total: int) -> None:
    if attributes & ~KNOWN_ATTRIBUTES or attributes & CODEC > 1:
        raise BrokenError("unknown attribute")
    if raw % 8:
        raise BrokenError("raw body is no multiple of 8")
    if attributes & MARK:
        if (attributes, count, total) != (MARK, 0, 64 + raw):
            raise BrokenError("a mark holds nothing")
    elif not 1 <= count <= 2**20:
        raise BrokenError("record count")
    if bool(attributes & MAX_TIMESTAMP) != bool(attributes & TIMESTAMPS):
        raise BrokenError("max timestamp without timestamps, or the other way round")
    if attributes & KEY_VALIDITY and not attributes & KEYS:
        raise BrokenError("key validity without keys")


def raw_body(batch: Batch) -> bytes:
    stored = batch.stored_body
    if xxh3(stored) != batch.body_checksum:
        raise BrokenError("checksum of the body")
    if batch.attributes & CODEC == 0:
        if len(stored) != batch.raw_body_bytes:
            raise BrokenError("length of the body")
        return stored
    frame_bytes = struct.unpack_from("<I", stored)[0] if len(stored) >= 8 else 2**32
    if 8 + frame_bytes > len(stored) or len(stored) - 8 - frame_bytes >= 8 or any(stored[8 + frame_bytes :]):
        raise BrokenError("length of the zstd frame")
    # The stream reader bounds what is written whatever the frame claims.
    with zstandard.ZstdDecompressor().stream_reader(stored[8 : 8 + frame_bytes]) as reader:
        body = reader.read(batch.raw_body_bytes + 1)
    if len(body) != batch.raw_body_bytes:
        raise BrokenError("length of the decompressed body")
    return body


class Columns:
    """Walks the columns of a raw body: each begins at a multiple of 8, what lies between is zero."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        padded = end + -end % 8
        if size < 0 or padded > len(self.body):
            raise BrokenError("a column does not fit")
        if any(self.body[end:padded]):
            raise BrokenError("what lies between columns is not zero")
        taken, self.at = self.body[self.at : end], padded
        return taken

    def ints(self, kind: str, count: int) -> tuple[int, ...]:
        form = struct.Struct(f"<{count}{kind}")
        return form.unpack(self.take(form.size))

    def binary(self, count: int) -> list[bytes]:
        offsets = self.ints("i", count + 1)
        if offsets[0] != 0 or any(b < a for a, b in pairwise(offsets)):
            raise BrokenError("offsets of a column fall")
        data = self.take(offsets[-1])
        return [data[a:b] for a, b in pairwise(offsets)]

    def validity(self, count: int) -> list[bool]:
        bits = self.take((count + 7) // 8)
        return [bool(bits[i // 8] >> (i % 8) & 1) for i in range(count)]


def with_nulls(column: list[bytes], valid: list[bool] | None) -> list[bytes | None]:
    if valid is None:
        return list(column)
    if any(data and not there for data, there in zip(column, valid, strict=True)):
        raise BrokenError("a null has bytes")
    return [data if there else None for data, there in zip(column, valid, strict=True)]


def parse_headers(data: bytes) -> Headers:
    found: list[tuple[str, bytes | None]] = []
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise BrokenError("a header does not fit")
        size = struct.unpack_from("<H", data, at)[0]
        name, at = data[at + 2 : at + 2 + size], at + 2 + size
        if at + 4 > len(data):
            raise BrokenError("a header does not fit")
        length, at = struct.unpack_from("<i", data, at)[0], at + 4
        if length < -1 or at + max(length, 0) > len(data):
            raise BrokenError("a header does not fit")
        value = None if length < 0 else data[at : at + length]
        at += max(length, 0)
        found.append((name.decode(), value))
    return tuple(found)


def records(batch: Batch) -> list[Record]:
    """Decode the records of a batch; raises BrokenError where the body is not what the document says."""
    if batch.is_mark:
        if any(raw_body(batch)):
            raise BrokenError("a mark holds nothing")
        return []
    n, has, columns = batch.record_count, batch.attributes, Columns(raw_body(batch))
    timestamps = columns.ints("q", n) if has & TIMESTAMPS else (batch.base_timestamp,) * n
    deltas = columns.ints("I", n) if has & DELTAS else tuple(range(n))
    sequences: tuple[int | None, ...] = (None,) * n
    if has & SEQUENCES:
        sequences = columns.ints("q", n)
    elif batch.producer is not None:
        sequences = tuple(range(batch.producer.first_sequence, batch.producer.first_sequence + n))
    key_validity = columns.validity(n) if has & KEY_VALIDITY else None
    value_validity = columns.validity(n) if has & VALUE_VALIDITY else None
    keys: list[bytes | None] = [None] * n
    if has & KEYS:
        keys = with_nulls(columns.binary(n), key_validity)
    headers = [parse_headers(data) for data in columns.binary(n)] if has & HEADERS else [()] * n
    values = with_nulls(columns.binary(n), value_validity)
    if columns.at != len(columns.body):
        raise BrokenError("bytes behind the last column")
    check_columns(batch, timestamps, deltas, sequences)
    return [
        Record(batch.base_offset + deltas[i], timestamps[i], keys[i], values[i], headers[i], sequences[i])
        for i in range(n)
    ]


def check_columns(
    batch: Batch, timestamps: tuple[int, ...], deltas: tuple[int, ...], sequences: tuple[int | None, ...]
) -> None:
    if timestamps[0] != batch.base_timestamp or max(timestamps) != batch.max_timestamp:
        raise BrokenError("timestamps differ from the header's")
    if any(b <= a for a, b in pairwise(deltas)) or deltas[-1] >= batch.offset_span:
        raise BrokenError("offset deltas do not rise, or leave the span")
    if batch.producer is not None:
        known = [sequence for sequence in sequences if sequence is not None]
        if any(b <= a for a, b in pairwise(known)):
            raise BrokenError("sequences do not rise")
        if (known[0], known[-1]) != (batch.producer.first_sequence, batch.producer.last_sequence):
            raise BrokenError("sequences differ from the producer block's")


# --- section 5 ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProducerEntry:
    id: int
    epoch: int
    first_sequence: int
    last_sequence: int
    last_offset: int
    timestamp: int


@dataclass(frozen=True)
class Footer:
    position: int
    total_length: int
    end_offset: int
    batches: int
    max_timestamp: int
    synced_offset: int
    cut: bool
    next_epoch: int
    sealed: int
    header: SegmentHeader
    producers: tuple[ProducerEntry, ...]


def parse_footer(data: bytes, position: int, salt: int) -> Footer:
    if len(data) - position < 256 or data[position : position + 4] != FOOTER_MAGIC:
        raise BrokenError("no footer")
    total, end, own, batches, timestamp, synced, flags, next_epoch, sealed, count, _, body_checksum = (
        struct.unpack_from("<IqQQqqIIqIIQ", data, position + 4)
    )
    if total != 256 + 64 * count or total > len(data) - position or own != position:
        raise BrokenError("length or place of the footer")
    footer = data[position : position + total]
    if header_checksum(footer[:120], salt, position) != struct.unpack_from("<Q", footer, 120)[0]:
        raise BrokenError("checksum of the footer")
    if xxh3(footer[128:]) != body_checksum:
        raise BrokenError("checksum of the producer table")
    if not 0 <= synced <= end <= 2**62 or next_epoch >= 2**31:
        raise BrokenError("offsets that nobody can have written")
    producers = []
    for at in range(256, total, 64):
        ident, epoch, _, first, last, offset, time = struct.unpack_from("<QIIqqqq", footer, at)
        producers.append(ProducerEntry(ident, epoch, first, last, offset, time))
    return Footer(
        position, total, end, batches, timestamp, synced, bool(flags & 1), next_epoch, sealed,
        parse_segment_header(footer[128:256]), tuple(producers),
    )  # fmt: skip


@dataclass(frozen=True)
class Break:
    """Where neither a batch nor a footer nor the free end of the file stands; `end` is where one does."""

    position: int
    end: int


@dataclass(frozen=True)
class Segment:
    header: SegmentHeader
    batches: tuple[Batch, ...]
    breaks: tuple[Break, ...]
    footer: Footer | None
    end_position: int  # behind the last valid thing

    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in records(batch)]


def find_header(data: bytes) -> SegmentHeader:
    places = list(HEADER_COPIES)
    at = data.find(FOOTER_MAGIC)
    while at >= 0:
        places.append(at + 128)
        at = data.find(FOOTER_MAGIC, at + 1)
    for place in places:
        try:
            return parse_segment_header(data[place : place + 128])
        except BrokenError:
            continue
    raise BrokenError("no valid segment header")


def next_valid(data: bytes, position: int, salt: int) -> int:
    """Position of the next batch or footer behind `position`, or the end of the file."""
    for at in range(position + 8, len(data) - 63, 8):
        if data[at : at + 4] in (BATCH_MAGIC, FOOTER_MAGIC) and stands(data, at, salt) is not None:
            return at
    return len(data)


def stands(data: bytes, position: int, salt: int) -> Batch | Footer | None:
    for parse in (parse_batch, parse_footer):
        try:
            return parse(data, position, salt)
        except BrokenError:
            continue
    return None


def parse_segment(data: bytes) -> Segment:
    header = find_header(data)
    batches: list[Batch] = []
    breaks: list[Break] = []
    position = end = FIRST_BATCH
    while position < len(data):
        thing = stands(data, position, header.salt)
        if isinstance(thing, Footer):
            return Segment(header, tuple(batches), tuple(breaks), thing, position + thing.total_length)
        if thing is not None:
            batches.append(thing)
            position = end = position + thing.total_length
        elif not any(data[position:]):
            break
        else:
            found = next_valid(data, position, header.salt)
            breaks.append(Break(position, found))
            position = found
    return Segment(header, tuple(batches), tuple(breaks), None, end)


def read_segment(path: Path) -> Segment:
    return parse_segment(path.read_bytes())
