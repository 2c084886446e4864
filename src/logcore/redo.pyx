# cython: language_level=3
"""Finishes a committed transaction whose owner died or could not go on.

Whoever is told of a dead owner by a lock applies that lock's part (write_pending, store_pending) and takes no
second lock; pylog.embedded.unfinished does the rest. Invariant: a part is looked for before it is applied, so
that all of this may die anywhere and be repeated.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.failpoints cimport planted
from logcore.format cimport *
from logcore.offset_copies cimport offset_copy_t
from logcore.offsets cimport OffsetTable
from logcore.partition_log cimport PartitionLog
from logcore.scan cimport SegmentScan
from logcore.topic_log cimport TopicLog

import os

from logcore.errors import CorruptionError
from logcore.redo_file import REDO_DIRECTORY, pending_records
from logcore.scan import ScannedBatch, parse_segment_header


def write_pending(PartitionLog log) -> None:
    """Before a partition is recovered: write what a committed transaction has for just its end.

    The append lock is held. Only while `end` is known, that is in the session, or at least on the boot, in
    which the owner died; recovery then finds a whole batch there and takes it in.
    """
    if planted("redo_not_applied") or not log.slot.recovered:
        return
    for description, batches in pending_records(f"{log.directory.rsplit('/', 3)[0]}/{REDO_DIRECTORY}"):
        write_parts_of(log, description, batches)


cdef int write_parts_of(PartitionLog log, dict description, bytes batches) except -1:
    cdef int at = 0
    for part in description["appends"]:
        batch = batches[at:at + part["bytes"]]
        at += part["bytes"]
        if part["uuid"] != log.uuid.hex() or part["partition"] != log.partition:
            continue
        # a cut gives positions out anew: then another segment is active, and the part goes in at the next
        # opening
        if part["start"] != log.slot.end or part["salt"] != log.slot.active_salt:
            continue
        fd = os.open(f"{log.directory}/{part['segment']}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            header = parse_segment_header(os.pread(fd, SEGMENT_HEADER_BYTES, 0))
            if header is not None and header.salt == part["salt"]:
                written = os.pwrite(fd, batch, part["position"])
                if written != len(batch):
                    raise OSError(28, "written in part", part["segment"])
        finally:
            os.close(fd)
    return 0


def store_pending(OffsetTable table, directory: str) -> None:
    """Store what committed transactions have for a table whose lock, which is held, had a dead owner."""
    for description, _ in pending_records(directory):
        for part in description["offsets"]:
            path = f"{directory.rsplit('/', 1)[0]}/groups/{part['group']}/{part['topic']}.offsets"
            if path != table.path or part["uuid"] != table.topic_uuid.hex():
                continue
            try:
                store_again(table, part)
            except CorruptionError:              # told to whoever asks for that partition
                pass


cdef bint store_again(OffsetTable table, dict part) except -1:
    """Store an offset of a committed transaction, unless it or a newer one is; whether it was done.

    Under the version that it has, so that of several transactions the last one counts in whatever order they
    come here.
    """
    cdef offset_copy_t found
    cdef int kept
    table.check_partition(part["partition"])
    kept = table.newest(part["partition"], &found)
    if kept >= 0 and found.version > <uint64_t> part["version"] and not planted("redo_offset_goes_back"):
        return False
    table.put(
        part["partition"], kept, <uint64_t> part["version"] + 1, part["offset"], part["epoch"],
        part["generation"], bytes.fromhex(part["metadata"]),
    )
    return True


def mend(TopicLog topic, partition: int) -> None:
    """Take the append lock once: where its holder died, the partition is recovered and its part written."""
    cdef PartitionLog log = topic.log(topic.check_partition(partition))
    log.take_lock()
    log.control.unlock(log.partition)


def transaction_of(SegmentScan scan, batch: ScannedBatch) -> bytes | None:
    """The id of the transaction that a scanned batch is a part of; None where it is of none."""
    cdef uint32_t attributes = batch.attributes
    if not attributes & ATTR_BLOCK_TRANSACTION or planted("redo_applied_twice"):
        return None
    block = batch.position + block_position(attributes, ATTR_BLOCK_TRANSACTION)
    return scan.read(block, BLOCK_TRANSACTION_BYTES)


def append_again(TopicLog topic, partition: int, batch: bytes) -> int:
    """Append a batch whose transaction is committed and which the log does not have; its base offset."""
    cdef PartitionLog log = topic.log(topic.check_partition(partition))
    cdef bytearray copy = bytearray(batch)
    cdef int64_t base = 0
    cdef uint64_t end = 0
    log.append(<uint8_t*> <char*> copy, <uint32_t> len(copy), True, &base, &end, None)
    return base


def commit_again(OffsetTable table, part: dict) -> bool:
    """Commit an offset of a committed transaction, unless it or a newer one is; whether it was done."""
    table.lock()
    try:
        return store_again(table, part)
    finally:
        table.unlock()
