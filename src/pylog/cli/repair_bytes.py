"""The bytes that a repair writes: marks in the place of lost batches, headers and footers made valid again.

Pure. Laid out as docs/FORMAT.md sections 3 to 5 say. Invariant: what these return carries the checksums of
just the place that it is made for.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

from logcore.hashing import checksum_header, xxh3_64
from logcore.scan import ScannedBatch, ScannedFooter, SegmentHeader, SegmentScan, parse_segment_header
from pylog.cli.segment_check import NO_TIMESTAMP, SegmentReport

BATCH_MAGIC = b"PLB\x01"
FOOTER_MAGIC = b"PLF\x01"
IS_MARK = 1 << 31
CUT = 1
PRODUCER_ENTRY = struct.Struct("<QIIqqqq16x")


def filler(header: SegmentHeader, position: int, length: int, next_offset: int) -> bytes:
    """Return a mark of `length` bytes, at least 64: it holds nothing and says where the log goes on."""
    room = bytes(length - 64)
    head = BATCH_MAGIC + struct.pack("<IqIIII", length, next_offset, 0, IS_MARK, header.epoch, len(room))
    head += struct.pack("<qqQ", 0, header.synced_offset, xxh3_64(room))
    return head + struct.pack("<Q", checksum_header(head, header.salt, position)) + room


def renewed_header(header: bytes, range_end: int) -> bytes:
    """Return the segment header with the end of the range in which offsets may be missing."""
    data = header[:88] + struct.pack("<q", range_end) + header[96:120]
    return data + struct.pack("<Q", checksum_header(data, 0, 0))


def renewed_footer(footer: bytes, header: bytes, position: int) -> bytes:
    """Return the footer with another copy of the segment header, and its batches not counted."""
    return sealed_footer(
        footer[:24] + bytes(8) + footer[32:72], header + footer[256:], position, salt_of(header)
    )


def sealed_footer(front: bytes, rest: bytes, position: int, salt: int) -> bytes:
    """Return a footer from its first 72 bytes and those from 128 on, with its checksums."""
    head = front + struct.pack("<Q40x", xxh3_64(rest))
    return head + struct.pack("<Q", checksum_header(head, salt, position)) + rest


def salt_of(header: bytes) -> int:
    """Return the salt that a segment header states."""
    salt: int = struct.unpack_from("<Q", header, 16)[0]
    return salt


def restored_footer(report: SegmentReport, before: list[Path], behind: SegmentHeader, position: int) -> bytes:
    """Return the footer that a segment must have had, from its batches, its predecessor and its successor.

    Args:
        before: the segments before it, of which the last one's footer holds the producers known so far.
        behind: the header of the segment behind it.
    """
    scan = SegmentScan(str(report.path))
    header = scan.header
    producers, newest = known_before(before)
    for entry in scan.entries(False):
        if isinstance(entry, ScannedBatch):
            newest = newest if entry.is_mark else max(newest, entry.max_timestamp)
            if entry.producer_id is not None:
                producers[entry.producer_id] = PRODUCER_ENTRY.pack(
                    entry.producer_id, entry.producer_epoch, 0, entry.first_sequence, entry.last_sequence,
                    entry.next_offset - 1, entry.max_timestamp,
                )  # fmt: skip
    scan.close()
    own = parse_segment_header(header)
    assert own is not None
    flags = CUT if behind.epoch > own.epoch else 0
    front = FOOTER_MAGIC + struct.pack("<IqQQ", 256 + 64 * len(producers), behind.base_offset, position, 0)
    synced = min(report.mark, behind.base_offset)
    front += struct.pack("<qqIIq", newest, synced, flags, behind.epoch, time.time_ns())
    front += struct.pack("<II", len(producers), 0)
    return sealed_footer(front, header + b"".join(producers.values()), position, own.salt)


def known_before(segments: list[Path]) -> tuple[dict[int, bytes], int]:
    """Return the producer table and the largest timestamp that the nearest footer before states."""
    for path in reversed(segments):
        scan = SegmentScan(str(path))
        try:
            footers = [entry for entry in scan.entries(False) if isinstance(entry, ScannedFooter)]
            if footers:
                data = scan.read(footers[0].position, footers[0].length)
                entries = [data[at : at + 64] for at in range(256, len(data), 64)]
                return {struct.unpack_from("<Q", e)[0]: e for e in entries}, footers[0].max_timestamp
        finally:
            scan.close()
    return {}, NO_TIMESTAMP
