# cython: language_level=3
"""All records of one key in one partition, read without touching the records of others.

Sealed segments are looked up in their .keys files, which are built when they are first needed; the active one
in memory, by a reader that catches up. What an index says is looked at in the segment before it is believed,
and where that does not fit, the segment is read as if there was none: damage is told as everywhere. The
guarded append stands on it. Invariant: nothing here holds the append lock but KeyGuard.holds().
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from logcore.batch cimport Record, RecordBatch, view_batch
from logcore.batch_header cimport check_batch
from logcore.control cimport atomic_load32, atomic_loadi64
from logcore.failpoints cimport failpoint, planted
from logcore.format cimport *
from logcore.hashing cimport xxh3
from logcore.partition_log cimport Guard, PartitionLog
from logcore.reader cimport PartitionReader
from logcore.segment cimport Segment
from logcore.segment_keys cimport SegmentKeys, keyed_records_t

import threading
from collections import OrderedDict
from collections.abc import Mapping

from logcore.errors import ClosedError, LogTruncatedError, OffsetOutOfRangeError, VersionConflictError
from logcore.segment_files import list_segments

cdef enum:
    MOST_OPEN = 512              # sealed segments that a process keeps mapped for look-ups
    MOST_INSIDE = 1 << 20        # bytes that a guard looks at under the append lock

opened = OrderedDict()           # IndexedSegment, used longest ago first


cdef class IndexedSegment:
    """A sealed segment, and the keys in it once they were asked for."""

    def __cinit__(self, file: object, end_offset: int):
        self.file, self.end_offset = file, end_offset

    cdef void let_go(self):
        self.keys = None
        self.segment = None


cdef class KeyIndex:
    """The keys of one partition. Threads may share it; it belongs to a TopicLog, which outlives it."""

    def __cinit__(self, PartitionLog log):
        self.log = log
        self.lock = threading.Lock()

    def __del__(self):
        self.let_go()                            # `opened` knows our segments, whose files may be deleted

    def close(self) -> None:
        """Let go of all mappings; a thread that looks something up does it when it has found it."""
        self.closed = True
        if self.lock.acquire(False):
            try:
                self.let_go()
            finally:
                self.lock.release()

    cdef int let_go(self) except -1:
        """Know nothing any more. The lock is held."""
        for found in self.sealed or ():
            opened.pop(found, None)
            (<IndexedSegment> found).let_go()
        self.sealed = None
        self.reader = None
        self.active = None
        self.active_segment = None
        return 0

    # ---- catching up ------------------------------------------------------------------------------------

    cdef int follow(self) except -1:
        """Know the keys of all that is published. The lock is held."""
        cdef RecordBatch batch
        cdef uint64_t end
        cdef int64_t last
        cdef int tries = 0
        while True:
            if self.sealed is not None and (
                atomic_load32(&self.log.control.header.rewrites) != self.rewrites
                or atomic_load32(&self.log.slot.active_epoch) != self.epoch
            ):
                self.let_go()
            try:
                if self.sealed is None:
                    self.begin()
                if self.reader is None:
                    return 0
                self.log.published(&end, &last)
                while (batch := self.reader.next_batch()) is not None:
                    self.take(batch)
            except (LogTruncatedError, OffsetOutOfRangeError, FileNotFoundError):
                # cut, deleted or replaced since the files were listed
                self.let_go()
                tries += 1
                if tries == 10:
                    raise
                continue
            if atomic_load32(&self.log.control.header.rewrites) != self.rewrites:
                continue
            self.end = end                       # or further: the reader came to what was the end by then
            return 0

    cdef int begin(self) except -1:
        """List the files; what is behind the last one's base is read into memory."""
        cdef int64_t start
        self.log.ensure_ready()
        self.rewrites = atomic_load32(&self.log.control.header.rewrites)
        self.epoch = atomic_load32(&self.log.slot.active_epoch)
        self.end = 0
        start = atomic_loadi64(&self.log.slot.log_start_offset)
        files = list_segments(self.log.directory)
        sealed = []
        for number in range(len(files) - 1):
            if files[number + 1].base_offset > max(start, files[number].base_offset):
                sealed.append(IndexedSegment(files[number], files[number + 1].base_offset))
        if not files:
            return 0                             # nothing was ever appended
        if files[0].base_offset > start:
            PartitionReader(self.log, None, start).next_batch()       # says what is missing
        self.reader = PartitionReader(self.log, None, max(start, files[len(files) - 1].base_offset))
        self.sealed = sealed
        return 0

    cdef int take(self, RecordBatch batch) except -1:
        """Take what the reader has just read."""
        cdef Segment before = self.active_segment
        if self.reader.segment is not before:
            self.active_segment = self.reader.segment
            if self.active is not None and before.path == self.active_segment.path:
                if before.salt != self.active_segment.salt:
                    raise FileNotFoundError(before.path)                   # rewritten
                return self.active.add_batch(batch, self.reader.position - batch.stored_bytes)
            self.seal_active(before)
            self.active = SegmentKeys(self.active_segment.base_offset, self.active_segment.salt)
        return self.active.add_batch(batch, self.reader.position - batch.stored_bytes)

    cdef int seal_active(self, Segment before) except -1:
        """The reader has gone on to the next segment: all keys of the one before are known."""
        cdef IndexedSegment found
        if self.active is None:
            return 0
        for file in list_segments(self.log.directory):
            if file.path == before.path:
                found = IndexedSegment(file, self.active_segment.base_offset)
                found.segment, found.keys = before, self.active
                self.save(found)
                self.sealed.append(found)
                touch(found)
        self.active = None
        return 0

    def save(self, IndexedSegment found) -> None:
        """Write the .keys file and use it instead of our memory; without it where that cannot be."""
        found.keys.seal()
        if self.log.read_only:
            return
        try:
            found.keys.save(found.file.path)
        except OSError:
            return
        found.keys.load(found.file.path)

    cdef int open_sealed(self, IndexedSegment found) except -1:
        """Map a sealed segment and its keys, which are read from it where there is no file that fits."""
        cdef SegmentKeys keys
        if found.keys is not None:
            touch(found)
            return 0
        found.segment = self.reader.open_segment(found.file, found.end_offset)
        keys = SegmentKeys(found.segment.base_offset, found.segment.salt)
        if not keys.load(found.file.path):
            found.keys = self.read_keys(found)
            self.save(found)
        elif keys.end_offset < found.end_offset:
            # rewritten by hand, or a segment is missing behind it: who reads there is told
            found.keys = self.read_keys(found)
        else:
            found.keys = keys
        touch(found)
        return 0

    cdef SegmentKeys read_keys(self, IndexedSegment found):
        """Read the keys of all records below the segment's end; raises CorruptionError at damage."""
        cdef SegmentKeys keys = SegmentKeys(found.segment.base_offset, found.segment.salt)
        cdef RecordBatch batch
        cdef int64_t start = max(
            <int64_t> found.file.base_offset, atomic_loadi64(&self.log.slot.log_start_offset)
        )
        cdef PartitionReader reader = PartitionReader(self.log, None, start)
        while reader.next_offset < found.end_offset:
            batch = reader.next_batch()
            if batch is None or batch.base_offset >= found.end_offset:
                break
            if reader.segment.path != found.segment.path or reader.segment.salt != keys.salt:
                raise FileNotFoundError(found.segment.path)
            keys.add_batch(batch, reader.position - batch.stored_bytes)
        keys.end_offset = found.end_offset
        return keys

    # ---- looking up -------------------------------------------------------------------------------------

    def find(
        self, key: bytes, first: int = 0, behind: int = INT64_MAX, *, most: int = -1, backward: bool = False
    ) -> list:
        """The records of `key` with an offset in [first, behind), at most so many, oldest or newest first.

        Raises CorruptionError where damage may hide one of them, ClosedError.
        """
        if not isinstance(key, bytes):
            raise TypeError(f"a key is bytes, not {type(key).__name__}")
        with self.lock:
            try:
                for _ in range(10):
                    self.check_open()
                    try:
                        return self.find_once(key, first, behind, most if most >= 0 else INT64_MAX, backward)
                    except FileNotFoundError:
                        self.let_go()                # deleted or replaced since it was listed
                return self.find_once(key, first, behind, most if most >= 0 else INT64_MAX, backward)
            finally:
                if self.closed:
                    self.let_go()

    cdef int look_up_to(self, uint64_t* end, uint32_t* epoch) except -1:
        """Know the keys of all that is published, and say where that ends."""
        with self.lock:
            try:
                self.check_open()
                self.follow()
                end[0], epoch[0] = self.end, self.epoch
            finally:
                if self.closed:
                    self.let_go()
        return 0

    cdef int check_open(self) except -1:
        if self.closed:
            raise ClosedError(f"topic {self.log.topic!r} was closed")
        return 0

    def find_once(self, key: bytes, first: int, behind: int, most: int, backward: bool) -> list:
        """find() in the files as they were listed."""
        cdef uint64_t hash = xxh3(<const char*> key, len(key))
        cdef keyed_records_t places
        cdef IndexedSegment segment
        cdef list out = []
        cdef Py_ssize_t wanted
        self.follow()
        first = max(first, atomic_loadi64(&self.log.slot.log_start_offset))
        parts = [*(self.sealed or ()), None]
        if backward:
            parts.reverse()
        memset(&places, 0, sizeof(places))
        try:
            for part in parts:
                if len(out) >= most:
                    break
                places.count = 0
                wanted = most - len(out)
                if part is None:
                    if self.active is not None:
                        self.active.collect(hash, first, behind, wanted, backward, &places)
                        self.gather(self.active_segment, self.active, &places, key, out)
                    continue
                segment = <IndexedSegment> part
                if segment.end_offset <= first or segment.file.base_offset >= behind:
                    continue
                self.open_sealed(segment)
                keys, mapped = segment.keys, segment.segment
                (<SegmentKeys> keys).collect(
                    hash, first, min(behind, segment.end_offset), wanted, backward, &places
                )
                self.gather(mapped, keys, &places, key, out)
        finally:
            free(places.at)
        return out

    cdef int gather(
        self, Segment segment, SegmentKeys keys, keyed_records_t* found, bytes key, list out
    ) except -1:
        """Add the records that are of the key, and not of another one with its hash."""
        cdef Py_ssize_t i
        cdef RecordBatch batch = None
        cdef Record record
        cdef int64_t offset
        cdef uint64_t position, batch_at = 0
        for i in range(found.count):
            position = found.at[i].position
            offset = keys.base_offset + found.at[i].relative_offset
            if batch is None or batch_at != position:
                batch = self.batch_at(segment, position, offset)
                batch_at = position
            record = batch.records(batch.first_at_or_after(offset), batch.first_at_or_after(offset) + 1)[0]
            if record.key == key:
                out.append(record)
        return 0

    cdef RecordBatch batch_at(self, Segment segment, uint64_t position, int64_t offset):
        """The batch that holds `offset`; CorruptionError where no such batch can be read."""
        cdef const uint8_t* p = segment.map + position
        cdef RecordBatch batch
        cdef PartitionReader reader
        if SEGMENT_DATA_START <= position < segment.file_limit and position & 7 == 0 and (
            check_batch(p, segment.file_limit - position, segment.salt, position)
            and not load32(p + BH_ATTRIBUTES) & <uint32_t> ATTR_MARK
        ):
            try:
                batch = view_batch(
                    segment, p, self.log.topic, self.log.partition, position >= segment.verified_to,
                    segment.map_bytes,
                )
                if holds_offset(batch, offset):
                    return batch
            except ValueError:
                pass
        reader = PartitionReader(self.log, None, offset)
        batch = reader.next_batch()                  # raises where damage stands
        if batch is None or not holds_offset(batch, offset):
            raise FileNotFoundError(segment.path)    # rewritten by now
        return batch

    def last_offset(self, key: bytes) -> int:
        """The offset of the last record with `key`, -1 where there is none."""
        found = self.find(key, most=1, backward=True)
        return found[0].offset if found else -1


cdef bint holds_offset(RecordBatch batch, int64_t offset) noexcept:
    cdef int i
    if not batch.base_offset <= offset < batch.next_offset:
        return False
    i = batch.first_at_or_after(offset)
    return i < batch.record_count and batch.offset_at(i) == offset


cdef int touch(IndexedSegment found) except -1:
    """Note that a sealed segment is used; the one used longest ago goes where there are too many."""
    opened[found] = None
    opened.move_to_end(found)
    if len(opened) > MOST_OPEN:
        (<IndexedSegment> opened.popitem(last=False)[0]).let_go()
    return 0


# ---- the guarded append ---------------------------------------------------------------------------------

cdef class KeyGuard(Guard):
    """Holds while the last record of each key in `expected` is the one at its offset, -1: while it has none.

    look() compares up to what is published, outside the lock. Under the lock holds() looks at the rest, which
    is short: a record of one of the keys there is a conflict, whatever it says.
    """

    def __init__(self, KeyIndex index, expected: dict):
        self.index, self.expected = index, expected

    cdef int look(self) except -1:
        cdef KeyIndex index = self.index
        index.look_up_to(&self.checked_to, &self.epoch)
        for key, offset in self.expected.items():
            actual = index.last_offset(key)
            if actual != offset:
                raise_conflict(index.log, key, offset, actual)
        failpoint("guard.looked")
        return 0

    cdef bint holds(self, PartitionLog log) except -1:
        """Look at the rest, the append lock held; False where that is to be done outside once more."""
        cdef uint64_t position, end
        cdef const uint8_t* p
        cdef RecordBatch batch
        cdef int i
        failpoint("guard.locked")
        if log.slot.end == self.checked_to and log.slot.active_epoch == self.epoch or (
            planted("guard_trusts_the_past")
        ):
            return True
        if log.slot.active_epoch != self.epoch or self.checked_to < log.slot.active_base_byte_pos or (
            log.slot.end - self.checked_to > MOST_INSIDE
        ):
            return False
        conflict = None
        position = self.checked_to - log.slot.active_base_byte_pos + SEGMENT_DATA_START
        end = log.slot.end - log.slot.active_base_byte_pos + SEGMENT_DATA_START
        while position < end:
            p = log.map + position
            if not check_batch(p, end - position, log.slot.active_salt, position):
                return False                     # whoever reads it outside is told
            if not load32(p + BH_ATTRIBUTES) & <uint32_t> ATTR_MARK:
                try:
                    batch = view_batch(self, p, log.topic, log.partition, True, log.map_bytes)
                except ValueError:
                    return False
                for i in range(batch.record_count):
                    key = batch.key_at(i)
                    if key in self.expected:
                        conflict = key, batch.offset_at(i)
            position += load32(p + BH_TOTAL_LENGTH)
        if conflict is not None:
            raise_conflict(log, conflict[0], self.expected[conflict[0]], conflict[1])
        return True


def raise_conflict(PartitionLog log, key: bytes, expected: int, actual: int) -> None:
    """Raise VersionConflictError: `actual` is the offset of the key's last record."""
    what = "it has no record" if actual < 0 else f"its last record is at offset {actual}"
    raise VersionConflictError(
        f"key {key!r} of {log.topic}-{log.partition}: {what}, not as expected at {expected}",
        stream=key.decode(errors="backslashreplace"), expected=expected, actual=actual,
    )


cdef KeyGuard guard_of(KeyIndex index, bytes key, object guard):
    """The guard that a caller gave: the offset of the last record of `key`, or of each key in a mapping."""
    if isinstance(guard, bool) or not isinstance(guard, (int, Mapping)):
        raise TypeError(f"a guard is an offset, -1 for no record, or a mapping, not {type(guard).__name__}")
    expected = {key: guard} if isinstance(guard, int) else dict(guard)
    for one, offset in expected.items():
        if not isinstance(one, bytes):
            raise TypeError(f"a guard is about a key, which is bytes, not {type(one).__name__}")
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise TypeError(f"a guard is an offset, -1 for no record, not {type(offset).__name__}")
    return KeyGuard(index, expected)
