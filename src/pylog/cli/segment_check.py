"""Checks one segment file: both headers, every batch down to its columns, the footer and the index.

Reads with pread and writes nothing; a segment that a process is appending to may be checked too. What is
broken is only collected here: whether that is corruption or the remains of a crash is decided by the durable
mark of the whole partition (FORMAT.md section 8). Invariant: every byte up to the end of the last valid thing
is covered by a checksum that was computed, or by a finding.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from logcore.batch import parse_batch
from logcore.errors import CorruptionError
from logcore.hashing import checksum_header, xxh3_64
from logcore.scan import (
    ScannedBatch,
    ScannedBreak,
    ScannedFooter,
    SegmentHeader,
    SegmentScan,
    parse_segment_header,
)
from pylog.cli.findings import Finding

HEADER_COPIES = (0, 4096)
HEADER_BYTES = 128
FIRST_BATCH = 4224
FOOTER_MAGIC = b"PLF\x01"
NO_TIMESTAMP = -(2**63)
RECORD_HEADERS = 1 << 6
TAIL_STEP = 1 << 20
SETTLE_TRIES = 3
SETTLE_SECONDS = 0.001

Entry = ScannedBatch | ScannedFooter | ScannedBreak
Index = dict[int, tuple[int, int]]
"""{position: (offset - base offset of the segment, largest timestamp before)}"""


class Lost(NamedTuple):
    """A place where records were, or would be, that cannot be read."""

    position: int
    length: int
    first_offset: int
    next_offset: int | None
    reason: str


class SegmentReport:
    """What was found in one segment file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: SegmentHeader | None = None
        self.footer: ScannedFooter | None = None
        self.findings: list[Finding] = []
        self.lost: list[Lost] = []
        self.batches = self.records = 0
        self.end_position = FIRST_BATCH
        self.next_offset = 0
        self.mark = 0
        """The largest synced offset that anything valid in the file states."""
        self.max_timestamp = NO_TIMESTAMP

    def find(self, kind: str, reason: str, position: int | None = None, length: int | None = None) -> None:
        """Note something that lost no records."""
        self.findings.append(Finding(kind, str(self.path), reason, position, length))  # type: ignore[arg-type]

    def lose(self, position: int, length: int, next_offset: int | None, reason: str) -> None:
        """Note offsets that cannot be read, from where the last readable record ended."""
        self.lost.append(Lost(position, length, self.next_offset, next_offset, reason))

    def judged(self, mark: int, what_then: str) -> list[Finding]:
        """Return all findings, with what was lost named by the durable mark of the partition.

        Args:
            what_then: What it means for records above the mark.
        """
        found = list(self.findings)
        for lost in self.lost:
            kind, reason = "corrupt", lost.reason
            if lost.first_offset >= mark:
                kind = "torn"
                reason += f"; above the durable mark: {what_then}"
            elif lost.first_offset == lost.next_offset:
                kind, reason = "damaged", f"{reason}; no record is lost"
            where = (lost.position, lost.length, lost.first_offset, lost.next_offset)
            found.append(Finding(kind, str(self.path), reason, *where))  # type: ignore[arg-type]
        return found


def check_segment(path: Path) -> SegmentReport:
    """Check one segment file; raises OSError where it cannot be read, FormatError for a newer version."""
    report = SegmentReport(path)
    scan = SegmentScan(str(path))
    try:
        check_header_copies(scan, report)
    finally:
        scan.close()
    if report.header is None:
        return report
    report.next_offset, report.mark = report.header.base_offset, report.header.synced_offset
    index = read_index(path, report)
    check_keys(path, report)
    for entry, data in settled_entries(path):
        if isinstance(entry, ScannedBatch):
            check_batch(entry, data, report, index)
        elif isinstance(entry, ScannedFooter):
            check_footer(entry, data, report)
        else:
            report.lose(entry.position, entry.length, None, "neither a batch nor a footer stands here")
    if report.footer is None:
        check_tail(path, report)
    if index and not report.lost:
        position = min(index)
        report.find(
            "damaged", f"the index points at position {position}, where no such batch begins: rebuildable"
        )
    return report


def check_tail(path: Path, report: SegmentReport) -> None:
    """Look for remains behind the last batch that begin with zeros, so that no walk sees them."""
    if report.lost and report.lost[-1].position >= report.end_position:
        return
    length = used_tail(path, report.end_position)
    tries = 0
    while length and tries < SETTLE_TRIES:
        if appended_since(path, report.end_position):
            return
        time.sleep(SETTLE_SECONDS)
        tries += 1
        length = used_tail(path, report.end_position)
    if length:
        report.lose(report.end_position, length, None, "remains of a batch that is not whole")


def used_tail(path: Path, position: int) -> int:
    """Return the bytes from `position` to the end of the file, 0 where all of them are zero."""
    scan = SegmentScan(str(path))
    try:
        for start in range(position, scan.file_bytes, TAIL_STEP):
            if scan.read(start, min(TAIL_STEP, scan.file_bytes - start)).strip(b"\0"):
                return int(scan.file_bytes) - position
        return 0
    finally:
        scan.close()


def appended_since(path: Path, position: int) -> bool:
    """Return whether a process has gone on writing at `position` since it was looked at."""
    scan = SegmentScan(str(path))
    try:
        scan.seek(position)
        first = next(iter(scan.entries()), None)
        return first is not None and not isinstance(first, ScannedBreak)
    finally:
        scan.close()


def check_header_copies(scan: SegmentScan, report: SegmentReport) -> None:
    """Hold the two copies of the segment header against each other."""
    copies = []
    for position in HEADER_COPIES:
        inside = position + HEADER_BYTES <= scan.file_bytes
        copies.append(scan.read(position, HEADER_BYTES) if inside else b"")
    parsed = [parse_segment_header(copy) for copy in copies]
    report.header = parsed[0] or parsed[1]
    if report.header is None:
        spare = "; a footer holds a third" if find_spare_header(scan) else ""
        reason = f"both copies of the segment header are damaged{spare}"
        report.findings.append(Finding("corrupt", str(report.path), reason, 0, scan.file_bytes, 0, None))
        return
    for position, header in zip(HEADER_COPIES, parsed, strict=True):
        if header is None:
            report.find(
                "damaged", "a copy of the segment header is damaged; the other one holds", position, 128
            )
    between = scan.read(HEADER_BYTES, min(HEADER_COPIES[1], scan.file_bytes) - HEADER_BYTES)
    if any(between):
        report.find("damaged", "bytes between the header's copies are not zero", HEADER_BYTES, len(between))
    if None not in parsed and copies[0] != copies[1]:
        report.find("damaged", "the copies of the segment header differ", HEADER_COPIES[1], HEADER_BYTES)


def find_spare_header(scan: SegmentScan) -> bytes:
    """Return the copy of the segment header that a valid footer holds, or b""."""
    step = 1 << 20
    for start in range(FIRST_BATCH, scan.file_bytes, step):
        block = scan.read(start, min(step + 256, scan.file_bytes - start))
        at = block.find(FOOTER_MAGIC)
        while at >= 0:
            footer = block[at : at + 256]
            header = parse_segment_header(footer[128:])
            if header is not None and len(footer) == 256:
                checksum = struct.unpack_from("<Q", footer, 120)[0]
                if checksum_header(footer[:120], header.salt, start + at) == checksum:
                    return footer[128:]
            at = block.find(FOOTER_MAGIC, at + 1)
    return b""


def settled_entries(path: Path) -> Iterator[tuple[Entry, bytes]]:
    """Yield what stands in the segment with its bytes; what looks broken is looked at again first.

    A process that appends just now may be half way through: only what stays broken is.
    """
    position, tries = FIRST_BATCH, 0
    while True:
        scan = SegmentScan(str(path))
        try:
            scan.seek(position)
            for entry in scan.entries():
                if looks_broken(entry) and tries < SETTLE_TRIES:
                    break
                tries = 0
                data = b"" if isinstance(entry, ScannedBreak) else scan.read(entry.position, entry.length)
                yield entry, data
                position = entry.position + entry.length
            else:
                return
        finally:
            scan.close()
        tries += 1
        time.sleep(SETTLE_SECONDS)


def looks_broken(entry: Entry) -> bool:
    """Return whether an entry is, or may be, what a process is writing just now."""
    return isinstance(entry, ScannedBreak) or (isinstance(entry, ScannedBatch) and not entry.body_ok)


def check_batch(batch: ScannedBatch, data: bytes, report: SegmentReport, index: Index) -> None:
    """Check a batch whose header holds: body, columns, epoch, and that its offsets follow."""
    header = report.header
    assert header is not None
    mend_last_loss(report, batch.base_offset)
    expected = index.pop(batch.position, None)
    if (
        expected is not None
        and not report.lost
        and expected != (batch.base_offset - header.base_offset, report.max_timestamp)
    ):
        report.find("damaged", f"the index is wrong about the batch at {batch.position}: rebuildable")
    if batch.base_offset < report.next_offset or batch.next_offset < batch.base_offset:
        reason = f"offsets go back to {batch.base_offset}"
        report.lose(batch.position, batch.length, max(batch.next_offset, report.next_offset), reason)
    elif batch.base_offset > report.next_offset:
        if batch.is_mark and batch.length > 64:
            reason = f"offsets {report.next_offset}..{batch.base_offset - 1} were dropped by a repair"
            report.find("note", reason, batch.position, batch.length)
        elif header.range_end < 0:
            report.lose(batch.position, 0, batch.base_offset, "records are missing before the batch here")
    reason = what_is_wrong(batch, data, header)
    if reason:
        report.next_offset = max(report.next_offset, batch.base_offset)
        report.lose(batch.position, batch.length, batch.next_offset, reason)
    else:
        report.records += batch.record_count
        report.mark = max(report.mark, batch.synced_offset)
        if not batch.is_mark:
            report.max_timestamp = max(report.max_timestamp, batch.max_timestamp)
    report.batches += not batch.is_mark
    report.next_offset = max(report.next_offset, batch.next_offset)
    report.end_position = batch.position + batch.length


def what_is_wrong(batch: ScannedBatch, data: bytes, header: SegmentHeader) -> str:
    """Return why the body of a batch cannot be read, "" where it can."""
    if batch.epoch != header.epoch:
        return f"a batch of epoch {batch.epoch} in a segment of epoch {header.epoch}"
    if not batch.body_ok:
        return "the body does not match its checksum"
    if batch.is_mark:
        return ""
    try:
        view = parse_batch(data, header.salt, batch.position, max_body_bytes=header.segment_bytes)
        if batch.attributes & RECORD_HEADERS:
            for record in view:
                _ = record.headers
    except CorruptionError as error:
        return str(error)
    return ""


def mend_last_loss(report: SegmentReport, next_offset: int) -> None:
    """Something valid stands behind a break: so its offsets end where that begins."""
    if report.lost and report.lost[-1].next_offset is None:
        report.lost[-1] = report.lost[-1]._replace(next_offset=next_offset)
        report.next_offset = max(report.next_offset, next_offset)


def check_footer(footer: ScannedFooter, data: bytes, report: SegmentReport) -> None:
    """Check what a footer says about the segment that it seals."""
    assert report.header is not None
    mend_last_loss(report, footer.end_offset)
    report.footer = footer
    report.mark = max(report.mark, footer.synced_offset)
    count = struct.unpack_from("<Q", data, 24)[0]
    if footer.end_offset != report.next_offset:
        if footer.end_offset > report.next_offset:
            report.lose(footer.position, 0, footer.end_offset, "records are missing before the footer")
        else:
            report.find(
                "damaged", f"the footer ends at offset {footer.end_offset}", footer.position, footer.length
            )
        report.next_offset = footer.end_offset
    if parse_segment_header(data[128:256]) != report.header:
        report.find(
            "damaged", "the footer's copy of the segment header differs", footer.position + 128, HEADER_BYTES
        )
    if count not in (0, report.batches) and not report.lost:
        report.find(
            "damaged", f"the footer counts {count} batches, there are {report.batches}", footer.position
        )
    if footer.max_timestamp < report.max_timestamp:
        report.find("damaged", "the footer's largest timestamp is not the largest", footer.position)
    report.end_position = footer.position + footer.length


def read_index(path: Path, report: SegmentReport) -> Index:
    """Return {position: (offset delta, largest timestamp before)} of the index, {} where there is none."""
    data = cached(path.with_suffix(".index"), b"pylogidx", report)
    return {position: (delta, newest) for delta, position, newest in struct.iter_unpack("<IIq", data)}


def check_keys(path: Path, report: SegmentReport) -> None:
    """Check the index of keys, where there is one: sorted, and no entry twice."""
    keys = path.with_suffix(".keys")
    data = cached(keys, b"pylogkey", report)
    entries = [(hashed, delta) for hashed, delta, _ in struct.iter_unpack("<QII", data)]
    if any(a >= b for a, b in pairwise(entries)):
        report.findings.append(Finding("damaged", str(keys), "its entries are not in order: rebuildable"))


def cached(path: Path, magic: bytes, report: SegmentReport) -> bytes:
    """Return the entries of a file that is made from the segment, none where it is not there or damaged."""
    header = report.header
    if header is None or path.is_symlink() or not path.is_file():
        return b""
    data = path.read_bytes()
    reason = ""
    if len(data) < 64 or data[:8] != magic or struct.unpack_from("<I", data, 8)[0] != 1:
        reason = "no index stands here"
    else:
        count, salt, checksum = struct.unpack_from("<IQQ", data, 12)
        if salt != header.salt:
            reason = "the index is another segment's"
        elif checksum_header(data[:56], salt, 0) != struct.unpack_from("<Q", data, 56)[0]:
            reason = "the header of the index does not match its checksum"
        elif len(data) != 64 + 16 * count or xxh3_64(data[64:]) != checksum:
            reason = "the index does not match its checksum"
    if reason:
        report.findings.append(Finding("damaged", str(path), f"{reason}: rebuildable"))
        return b""
    return data[64:]
