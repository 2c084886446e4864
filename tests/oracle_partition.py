"""Reads a partition as a whole, its indices and small files, in plain Python from docs/FORMAT.md alone.

Goes on where oracle.py ends: that reads one segment, this follows the chain that the footers make.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from oracle import FIRST_BATCH, BrokenError, Record, Segment, header_checksum, read_segment, xxh3


@dataclass(frozen=True)
class IndexEntry:
    base_offset_delta: int
    position: int
    max_timestamp_before: int


def read_index(path: Path, salt: int) -> tuple[IndexEntry, ...]:
    data = path.read_bytes()
    if len(data) < 64 or data[:8] != b"pylogidx":
        raise BrokenError("no index")
    version, count, its_salt, checksum = struct.unpack_from("<IIQQ", data, 8)
    if version != 1 or its_salt != salt or len(data) < 64 + 16 * count:
        raise BrokenError("an index of another segment or version")
    if header_checksum(data[:56], salt, 0) != struct.unpack_from("<Q", data, 56)[0]:
        raise BrokenError("checksum of the index header")
    if xxh3(data[64 : 64 + 16 * count]) != checksum:
        raise BrokenError("checksum of the index")
    entries = tuple(IndexEntry(*struct.unpack_from("<IIq", data, 64 + 16 * i)) for i in range(count))
    pairs = [(entry.base_offset_delta, entry.position) for entry in entries]
    if pairs != sorted(pairs):
        raise BrokenError("entries of an index fall")
    return entries


@dataclass(frozen=True)
class Keys:
    base_offset: int
    end_offset: int
    entries: tuple[tuple[int, int, int], ...]  # hash of the key, offset, position of the batch

    def offsets(self, key: bytes) -> list[int]:
        return [offset for hashed, offset, _ in self.entries if hashed == xxh3(key)]


def read_keys(segment: Path) -> Keys:
    """Read the .keys file beside a segment."""
    header = segment.read_bytes()[:128]
    salt, base_offset = struct.unpack_from("<Qq", header, 16)
    data = segment.with_suffix(".keys").read_bytes()
    if len(data) < 64 or data[:8] != b"pylogkey":
        raise BrokenError("no index of keys")
    version, count, its_salt, checksum, end_offset = struct.unpack_from("<IIQQq", data, 8)
    if version != 1 or its_salt != salt or len(data) != 64 + 16 * count or any(data[40:56]):
        raise BrokenError("keys of another segment or version")
    if header_checksum(data[:56], salt, 0) != struct.unpack_from("<Q", data, 56)[0]:
        raise BrokenError("checksum of the keys' header")
    if xxh3(data[64:]) != checksum:
        raise BrokenError("checksum of the keys")
    entries = tuple(struct.iter_unpack("<QII", data[64:]))
    if list(entries) != sorted(set(entries)):
        raise BrokenError("entries of the keys are out of order")
    return Keys(base_offset, end_offset, tuple((h, base_offset + delta, at) for h, delta, at in entries))


@dataclass(frozen=True)
class Start:
    log_start_offset: int = 0
    epochs: tuple[tuple[int, int], ...] = ((0, 0),)


def read_start(path: Path) -> Start:
    if not path.exists():
        return Start()
    stored = json.loads(path.read_bytes())
    checksum = stored.pop("checksum")
    text = json.dumps(stored, sort_keys=True, separators=(",", ":"))
    if f"{xxh3(text.encode()):016x}" != checksum:
        raise BrokenError("checksum of start")
    return Start(stored["log_start_offset"], tuple((epoch, first) for epoch, first in stored["epochs"]))


def read_producer(path: Path) -> tuple[int, int]:
    """Return (producer id, epoch) of a file below `producers`."""
    data = path.read_bytes()
    if len(data) != 64 or data[:8] != b"pylogprd":
        raise BrokenError("no producer identity")
    version, epoch, ident = struct.unpack_from("<IIQ", data, 8)
    if version != 1 or header_checksum(data[:56], 0, 0) != struct.unpack_from("<Q", data, 56)[0]:
        raise BrokenError("checksum of the producer identity")
    return ident, epoch


@dataclass(frozen=True)
class Partition:
    start: Start
    segments: tuple[Segment, ...]

    def records(self) -> list[Record]:
        every = [record for segment in self.segments for record in segment.records()]
        return [record for record in every if record.offset >= self.start.log_start_offset]

    @property
    def log_end_offset(self) -> int:
        last = self.segments[-1]
        if last.footer is not None:
            return last.footer.end_offset
        return last.batches[-1].next_offset if last.batches else last.header.base_offset

    @property
    def durable_mark(self) -> int:
        marks = [self.start.log_start_offset]
        for segment in self.segments:
            marks += [segment.header.synced_offset, *(batch.synced_offset for batch in segment.batches)]
            marks += [segment.footer.synced_offset] if segment.footer else []
        return max(marks)


def segment_name(base_offset: int, epoch: int | None = None) -> str:
    return f"{base_offset:020d}.log" if epoch is None else f"{base_offset:020d}-{epoch}.log"


def read_partition(directory: Path) -> Partition:
    """Follow the chain of footers from the first segment; what no footer leads to is no part of the log."""
    start = read_start(directory / "start")
    names = sorted(path.name for path in directory.iterdir() if path.name.endswith(".log"))
    chain: list[Segment] = []
    path = directory / names[0] if names else directory / segment_name(0)
    position: int | None = None
    while path.exists():
        segment = read_segment(path)
        if position is not None and segment.header.start_position != position:
            raise BrokenError(f"{path.name}: cumulative position does not follow")
        chain.append(segment)
        footer = segment.footer
        if footer is None:
            break
        position = segment.header.start_position + footer.position - FIRST_BATCH
        if segment.header.merged_end >= 0:
            position = None  # it was rewritten, and what is behind it stays where it was
        path = directory / segment_name(footer.end_offset, footer.next_epoch if footer.cut else None)
    return Partition(start, tuple(chain))
