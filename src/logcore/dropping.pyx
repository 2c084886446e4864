# cython: language_level=3, boundscheck=True, wraparound=True
"""Drops the head of a partition: records below an offset, and the segments that hold nothing else.

The log start offset is stated in `start`, then in the control slot, and only then are files unlinked: who
dies in between leaves segments that the next drop or recovery removes. What others map stays readable.
Invariant: the log start offset never passes the synced offset and never goes back.
"""

from libc.stdint cimport int64_t, uint64_t

from logcore.control cimport atomic_load64, atomic_loadi64, atomic_storei64
from logcore.failpoints cimport failpoint
from logcore.partition_log cimport PartitionLog
from logcore.sync cimport SEALED_ONLY

import os
from contextlib import suppress

from logcore.errors import OffsetOutOfRangeError, ReadOnlyError
from logcore.segment_files import caches_of, list_segments, read_start, write_start


def drop_before(PartitionLog log, before_offset: int) -> int:
    """Make `before_offset` the log start offset, on disk on return, unless it is already behind it.

    Returns the log start offset. Raises OffsetOutOfRangeError beyond the log end offset, ReadOnlyError,
    DurabilityError, DiskFullError, LockTimeoutError.
    """
    cdef uint64_t end
    cdef int64_t last
    if log.read_only:
        raise ReadOnlyError("the engine was opened with read_only=True")
    log.ensure_ready()
    log.published(&end, &last)
    first = atomic_loadi64(&log.slot.log_start_offset)
    if not 0 <= before_offset <= last:
        raise OffsetOutOfRangeError(
            f"records of {log.topic}-{log.partition} before offset {before_offset}: it has [{first}, {last}]",
            offset=before_offset, log_start_offset=first, log_end_offset=last,
        )
    if before_offset > first:
        if before_offset > atomic_loadi64(&log.slot.synced_offset):
            log.sync_to(atomic_load64(&log.slot.end))
        log.sync_to(SEALED_ONLY)
        log.take_lock()
        try:
            first = state_start(log, before_offset)
        finally:
            log.control.unlock(log.partition)
    remove_below_start(log)
    return first


def state_start(PartitionLog log, before_offset: int) -> int:
    """State the log start offset on disk and then in the slot; the append lock is held."""
    start = read_start(log.directory)
    # a cut may have come since the caller looked
    first = min(before_offset, log.slot.synced_offset)
    if first <= start.log_start_offset:
        return start.log_start_offset
    failpoint("drop.locked")
    write_start(log.directory, start._replace(log_start_offset=first))
    failpoint("drop.start")
    atomic_storei64(&log.slot.log_start_offset, first)
    failpoint("drop.published")
    return first


def remove_below_start(PartitionLog log) -> int:
    """Unlink the segments all of whose records are below the log start offset; how many went.

    From the oldest on, so that those left behind a kill are still a chain. Nobody appends to them.
    One whose seal is to be synced yet stays, for whoever syncs opens it by its name; and so does the segment
    before the active one while its footer has the producer table.
    """
    first = atomic_loadi64(&log.slot.log_start_offset)
    unsynced = atomic_loadi64(&log.slot.sealed_base_offset)
    segments = list_segments(log.directory)
    keep = 2 if log.slot.producers else 1
    removed = 0
    for number, segment in enumerate(segments[:-keep]):
        if segments[number + 1].base_offset > first or 0 <= unsynced <= segment.base_offset:
            break
        for path in (*caches_of(segment.path), segment.path):
            with suppress(FileNotFoundError):       # another process is dropping too
                os.unlink(path)
        removed += 1
        failpoint("drop.unlinked")
    return removed
