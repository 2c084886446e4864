# cython: language_level=3
"""The sealed segments of a partition as cleaning sees them: which there are, and a walk through each.

Reads only, but for roll_segment(), which seals the active one. Invariant: only segments that are wholly on
disk are told, and a walk yields what was checked or raises.
"""

from libc.stdint cimport uint8_t, uint32_t

from logcore.batch cimport view_batch
from logcore.control cimport atomic_loadi64
from logcore.format cimport *
from logcore.key_map cimport KeyMap
from logcore.partition_log cimport PartitionLog
from logcore.scan cimport SCAN_BATCH, SCAN_FOOTER, SegmentScan
from logcore.sync cimport SEALED_ONLY

import os
from collections.abc import Callable
from typing import NamedTuple

from logcore.errors import CorruptionError
from logcore.recovery import find_footer
from logcore.rolling import roll
from logcore.scan import parse_segment_header
from logcore.segment_files import SegmentFile, list_segments


class SealedSegment(NamedTuple):
    """A sealed segment that is on disk, and what its footer says."""

    file: SegmentFile
    end_offset: int
    max_timestamp: int
    sealed: int
    stored_bytes: int

    @property
    def base_offset(self) -> int:
        """Its first offset."""
        return self.file.base_offset


def sealed_segments(PartitionLog log) -> list[SealedSegment]:
    """The sealed segments of a partition that are wholly on disk, in order. Raises CorruptionError."""
    log.ensure_ready()
    first = atomic_loadi64(&log.slot.log_start_offset)
    synced = atomic_loadi64(&log.slot.synced_offset)
    unsynced = atomic_loadi64(&log.slot.sealed_base_offset)
    found = []
    for file in list_segments(log.directory):
        if file.base_offset >= atomic_loadi64(&log.slot.active_base_offset) or (
            0 <= unsynced <= file.base_offset                        # its footer is not on disk
        ):
            break
        footer = find_footer(file)
        try:
            size = os.stat(file.path, follow_symlinks=False).st_size
        except FileNotFoundError:                      # dropped just now
            continue
        if footer is None:
            raise CorruptionError(
                f"{file.path} has no footer that can be read; it is not cleaned", path=file.path, position=0
            )
        if footer.end_offset > synced:
            break
        if footer.end_offset > first:
            found.append(SealedSegment(file, footer.end_offset, footer.max_timestamp, footer.sealed, size))
    return found


def roll_segment(PartitionLog log) -> None:
    """Seal the active segment where it holds records, on disk on return, and begin the next."""
    log.sync_to(SEALED_ONLY)                           # two segments may not be unsynced at once
    log.take_lock()
    try:
        if log.slot.next_offset > log.slot.active_base_offset and log.slot.sealed_base_offset < 0:
            roll(log)
            log.open_writer()
    finally:
        log.control.unlock(log.partition)
    if log.unsaved_index is not None:
        log.save_index()
    log.sync_to(log.slot.end)
    log.sync_to(SEALED_ONLY)                           # the footer, where all before it was on disk already


def map_keys(
    PartitionLog log, KeyMap keys, segments: list[SealedSegment], first: int,
    pace: Callable[[int], None] | None = None,
) -> int:
    """Put the keys of the records from offset `first` on into `keys`; the offset up to which they were put.

    That is the end of the segments, or less where the map is full. Raises CorruptionError at damage.
    """
    cdef Walk walk
    cdef int taken
    covered = first
    for segment in segments:
        if segment.end_offset <= first:
            continue
        walk = Walk(log, segment)
        try:
            while walk.next():
                if walk.batch is None or walk.batch.next_offset <= first:
                    continue
                taken = walk.batch.first_at_or_after(first)
                taken = keys.put(walk.batch, taken)
                if taken < walk.batch.record_count:
                    return walk.batch.offset_at(taken)
                covered = walk.batch.next_offset
                if pace is not None:
                    pace(walk.scan.length)
        finally:
            walk.scan.close()
        covered = segment.end_offset
    return covered


cdef class Walk:
    """The batches of one sealed segment, checked; read by pread, since nobody needs them in memory again."""

    def __cinit__(self, PartitionLog log, segment: SealedSegment):
        self.log, self.path = log, segment.file.path
        self.scan = SegmentScan(self.path)
        header = parse_segment_header(self.scan.header) if self.scan.header else None
        if header is None or (header.topic_uuid, header.partition, header.base_offset) != (
            log.uuid, log.partition, segment.base_offset
        ):
            self.scan.close()
            raise CorruptionError(f"{self.path} has no header of its own", path=self.path, position=0)

    cdef bint next(self) except -1:
        """Go to the next batch, False at the footer."""
        cdef const uint8_t* whole
        self.scan.step()
        if self.scan.kind == SCAN_FOOTER:
            return False
        if self.scan.kind != SCAN_BATCH:
            self.damaged("neither a batch nor a footer stands here")
        whole = self.scan.peek(self.scan.position, self.scan.length)
        self.scan.entry = whole
        if load32(whole + BH_ATTRIBUTES) & <uint32_t> ATTR_MARK:
            self.batch = None
            return True
        try:
            self.batch = view_batch(
                self.scan, whole, self.log.topic, self.log.partition, True, self.log.segment_bytes
            )
        except ValueError as error:
            self.damaged(str(error))
        return True

    def damaged(self, reason: str) -> None:
        """Raise CorruptionError for what stands at the position."""
        raise CorruptionError(
            f"{self.path} is damaged at position {self.scan.position}: {reason}; it is not compacted",
            path=self.path, position=self.scan.position,
        )
