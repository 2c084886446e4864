"""Writes segments in plain Python from docs/FORMAT.md alone, with every freedom that the document leaves.

The counterpart of oracle.py: what it writes, the native reader must read as the same records.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import oracle
import zstandard
from oracle import Headers, ProducerEntry, Record, SegmentHeader, header_checksum, xxh3


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def encode_segment_header(header: SegmentHeader) -> bytes:
    data = b"pylogseg" + struct.pack(
        "<HHIQqII", 1, 128, 0, header.salt, header.base_offset, header.epoch, header.partition
    )
    data += header.topic_uuid
    data += struct.pack(
        "<QqQqq24x",
        header.segment_bytes,
        header.created,
        header.start_position,
        header.synced_offset,
        header.merged_end,
    )
    return data + struct.pack("<Q", header_checksum(data, 0, 0))


def encode_headers(headers: Headers) -> bytes:
    data = b""
    for name, value in headers:
        data += struct.pack("<H", len(name.encode())) + name.encode()
        data += struct.pack("<i", -1 if value is None else len(value)) + (value or b"")
    return data


def binary_column(items: Sequence[bytes]) -> bytes:
    offsets = [0]
    for item in items:
        offsets.append(offsets[-1] + len(item))
    return padded(struct.pack(f"<{len(offsets)}i", *offsets)) + padded(b"".join(items))


def validity_column(items: Sequence[bytes | None]) -> bytes:
    bits = bytearray((len(items) + 7) // 8)
    for i, item in enumerate(items):
        bits[i // 8] |= (item is not None) << (i % 8)
    return padded(bytes(bits))


@dataclass(frozen=True)
class Choices:
    """What a writer may choose beyond what the records force."""

    codec: int = 0
    epoch: int = 0
    synced_offset: int = 0
    producer: tuple[int, int] | None = None  # id and epoch; the sequences come from the records
    transaction: bytes | None = None
    spread: bool = False  # write columns that could be absent
    span: int | None = None


def encode_batch(records: Sequence[Record], choices: Choices, salt: int, position: int) -> bytes:
    """Encode records of rising offsets as one batch for `position` of the segment with `salt`."""
    base, first = records[0].offset, records[0].timestamp
    attributes, body = encode_body(records, choices)
    blocks = b""
    if attributes & oracle.TIMESTAMPS:
        attributes |= oracle.MAX_TIMESTAMP
        blocks += struct.pack("<q", max(record.timestamp for record in records))
    if choices.producer is not None:
        attributes |= oracle.PRODUCER
        blocks += struct.pack("<QIIqq", *choices.producer, 0, records[0].sequence, records[-1].sequence)
    if choices.transaction is not None:
        attributes |= oracle.TRANSACTION
        blocks += choices.transaction
    span = choices.span if choices.span is not None else records[-1].offset + 1 - base
    if span != len(records) or choices.span is not None:
        attributes |= oracle.OFFSET_SPAN
        blocks += struct.pack("<q", span)
    stored = body
    if choices.codec == 1:
        frame = zstandard.compress(body)
        stored = padded(struct.pack("<II", len(frame), 0) + frame)
    total = 64 + len(blocks) + len(stored)
    fixed = (len(records), attributes | choices.codec, choices.epoch, len(body))
    head = oracle.BATCH_MAGIC + struct.pack("<Iq", total, base) + struct.pack("<IIII", *fixed)
    head += struct.pack("<qqQ", first, choices.synced_offset, xxh3(stored))
    return head + struct.pack("<Q", header_checksum(head + blocks, salt, position)) + blocks + stored


def encode_body(records: Sequence[Record], choices: Choices) -> tuple[int, bytes]:
    n, base, spread = len(records), records[0].offset, choices.spread
    attributes, body = 0, b""
    timestamps = [record.timestamp for record in records]
    if spread or len(set(timestamps)) > 1:
        attributes |= oracle.TIMESTAMPS
        body += struct.pack(f"<{n}q", *timestamps)
    deltas = [record.offset - base for record in records]
    if spread or deltas != list(range(n)):
        attributes |= oracle.DELTAS
        body += padded(struct.pack(f"<{n}I", *deltas))
    if choices.producer is not None:
        sequences = [record.sequence or 0 for record in records]
        if spread or sequences != list(range(sequences[0], sequences[0] + n)):
            attributes |= oracle.SEQUENCES
            body += struct.pack(f"<{n}q", *sequences)
    keys = [record.key for record in records]
    values = [record.value for record in records]
    has_keys = spread or any(key is not None for key in keys)
    if has_keys and (spread or None in keys):
        attributes |= oracle.KEY_VALIDITY
        body += validity_column(keys)
    if spread or None in values:
        attributes |= oracle.VALUE_VALIDITY
        body += validity_column(values)
    if has_keys:
        attributes |= oracle.KEYS
        body += binary_column([key or b"" for key in keys])
    if spread or any(record.headers for record in records):
        attributes |= oracle.HEADERS
        body += binary_column([encode_headers(record.headers) for record in records])
    return attributes, body + binary_column([value or b"" for value in values])


def encode_mark(
    offset: int, synced_offset: int, epoch: int, timestamp: int, salt: int, position: int
) -> bytes:
    head = oracle.BATCH_MAGIC + struct.pack("<IqIIII", 64, offset, 0, oracle.MARK, epoch, 0)
    head += struct.pack("<qqQ", timestamp, synced_offset, xxh3(b""))
    return head + struct.pack("<Q", header_checksum(head, salt, position))


def encode_footer(
    header: SegmentHeader,
    position: int,
    end_offset: int,
    *,
    batches: int = 0,
    max_timestamp: int = oracle.NO_TIMESTAMP,
    synced_offset: int = 0,
    next_epoch: int = 0,
    cut: bool = False,
    producers: Sequence[ProducerEntry] = (),
) -> bytes:
    table = b"".join(
        struct.pack(
            "<QIIqqqq16x", p.id, p.epoch, 0, p.first_sequence, p.last_sequence, p.last_offset, p.timestamp
        )
        for p in producers
    )
    rest = encode_segment_header(header) + table
    head = oracle.FOOTER_MAGIC + struct.pack("<IqQQ", 256 + len(table), end_offset, position, batches)
    head += struct.pack("<qqIIq", max_timestamp, synced_offset, int(cut), next_epoch, 0)
    head += struct.pack("<IIQ40x", len(producers), 0, xxh3(rest))
    return head + struct.pack("<Q", header_checksum(head, header.salt, position)) + rest


class SegmentWriter:
    """Puts batches one behind the other into the bytes of one segment."""

    def __init__(self, header: SegmentHeader) -> None:
        self.header = header
        block = encode_segment_header(header)
        self.data = bytearray(block.ljust(4096, b"\0") + block)
        self.next_offset = header.base_offset
        self.batches = 0

    def append(self, records: Sequence[Record], choices: Choices | None = None) -> int:
        """Append one batch; return its position."""
        position = len(self.data)
        choices = choices or Choices(epoch=self.header.epoch)
        self.data += encode_batch(records, choices, self.header.salt, position)
        self.next_offset = records[-1].offset + 1
        self.batches += 1
        return position

    def mark(self, synced_offset: int) -> int:
        position = len(self.data)
        self.data += encode_mark(
            self.next_offset, synced_offset, self.header.epoch, 0, self.header.salt, position
        )
        return position

    def seal(self, **facts: object) -> int:
        position = len(self.data)
        footer = encode_footer(self.header, position, self.next_offset, batches=self.batches, **facts)  # type: ignore[arg-type]
        self.data += footer
        return position

    def finished(self, free: int = 0) -> bytes:
        return bytes(self.data) + bytes(free)
