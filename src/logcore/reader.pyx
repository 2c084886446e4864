# cython: language_level=3
"""Reading one partition from an offset on, through mapped segments.

A reader takes no lock: it loads the published (or synced) end and walks up to it, from segment to segment by
their footers. One thread at a time uses it. Invariant: records come in offset order without a gap that is not
told: damage raises CorruptionError and leaves the position where it was.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.batch cimport RecordBatch, view_batch
from logcore.batch_header cimport (
    STANDS_BATCH, STANDS_FOOTER, STANDS_NOTHING, max_timestamp_of, next_offset_of, what_stands,
)
from logcore.control cimport atomic_load32, atomic_loadi64
from logcore.format cimport *
from logcore.matching cimport NO, Matcher
from logcore.partition_log cimport PartitionLog
from logcore.segment cimport Segment, find_next_valid

import weakref

from logcore.errors import ClosedError, CorruptionError, LogTruncatedError, OffsetOutOfRangeError
from logcore.segment_files import SegmentFile, list_segments, read_start, segment_file_name

cdef enum:
    MOST_MAPPED = 1024           # readers of this process that keep a segment mapped

cdef list mapped_readers = []    # weak references to them, first mapped first


cdef int note_mapped(PartitionReader reader) except -1:
    """Have whoever mapped first let go, so that 10,000 partitions need no 10,000 maps."""
    cdef PartitionReader oldest
    cdef int i = 0
    if reader.mapped:
        return 0
    while len(mapped_readers) >= MOST_MAPPED and i < len(mapped_readers):
        oldest = <PartitionReader> mapped_readers[i]()
        if oldest is not None and oldest.busy:       # a thread is in a call of it
            i += 1
            continue
        del mapped_readers[i]
        if oldest is not None:
            oldest.mapped = False
            oldest.segment = None                    # batches of it that somebody holds keep it mapped
    mapped_readers.append(weakref.ref(reader))
    reader.mapped = True
    return 0


cdef class PartitionReader:
    """Reads `log` from `offset` on; `synced_only` hands out nothing that a power cut could take away."""

    def __cinit__(self, PartitionLog log, owner: object, offset: int, synced_only: bool = False):
        self.log = log
        self.owner = owner
        self.synced_only = synced_only
        log.ensure_ready()
        self.rewrites = atomic_load32(&log.control.header.rewrites)
        self.seek(offset)

    @property
    def offset(self) -> int:
        """Offset of the next record that poll() or next_batch() hands out."""
        return self.next_offset

    cdef void limit(self, uint64_t* end, int64_t* next_offset) noexcept nogil:
        if self.synced_only:
            self.log.synced(end, next_offset)
        else:
            self.log.published(end, next_offset)

    def seek(self, offset: int) -> None:
        """Go to `offset`. Raises OffsetOutOfRangeError outside [log_start_offset, log_end_offset]."""
        cdef uint64_t end
        cdef int64_t last
        self.log.published(&end, &last)
        if not self.log.slot.log_start_offset <= offset <= last:
            raise OffsetOutOfRangeError(
                f"offset {offset} of {self.log.topic}-{self.log.partition} is outside "
                f"[{self.log.slot.log_start_offset}, {last}]",
                offset=offset, log_start_offset=self.log.slot.log_start_offset, log_end_offset=last,
            )
        self.batch = None
        self.busy = True
        try:
            if self.segment is not None and self.stays_within(offset):
                self.position = self.segment.position_of(offset, self.readable(end))
                self.segment.verified_to = min(self.segment.verified_to, self.position)
            else:
                self.segment = None
        finally:
            self.busy = False
        self.next_offset = offset
        self.epoch = self.log.slot.active_epoch

    cdef bint stays_within(self, int64_t offset) except -1:
        """Whether the segment that is mapped surely has the offset, so that nobody need look at the files."""
        return (
            self.epoch == self.log.slot.active_epoch
            and self.rewrites == atomic_load32(&self.log.control.header.rewrites)
            and self.segment.base_offset <= offset
            and (
                offset < self.next_offset or offset < self.segment_end
                or self.segment.base_offset == self.log.slot.active_base_offset
            )
        )

    cdef int check_still_there(self) except -1:
        """Raise ClosedError where the topic was deleted, OffsetOutOfRangeError where the position was."""
        if self.log.control.header.deleted:
            raise ClosedError(f"topic {self.log.topic!r} was deleted")
        if self.next_offset < atomic_loadi64(&self.log.slot.log_start_offset):
            self.seek(self.next_offset)
        return 0

    cdef int locate(self, uint64_t end) except -1:
        """Find the segment and the position of next_offset; no segment where nothing is published."""
        cdef list files = list_segments(self.log.directory)
        cdef Py_ssize_t i
        cdef uint64_t limit
        for i in range(len(files) - 1, -1, -1):
            if files[i].base_offset <= self.next_offset or i == 0:
                break
        else:
            return 0
        try:
            self.segment_end = files[i + 1].base_offset if i + 1 < len(files) else -1
            self.segment = self.open_segment(files[i], self.segment_end)
        except FileNotFoundError:
            self.check_still_there()         # dropped since it was listed
            raise
        note_mapped(self)
        if self.segment.base_offset > self.next_offset:
            self.check_still_there()
            raise self.damage("the segment before it is missing", self.segment.base_offset)
        if i + 1 < len(files):
            self.segment.load_index()
        limit = self.readable(end)
        self.position = self.segment.position_of(self.next_offset, limit)
        return 0

    cdef Segment open_segment(self, object file, int64_t behind):
        """Map a segment; CorruptionError with the offsets up to `behind` (-1: the end) where it is none."""
        cdef Segment found
        cdef int64_t first = max(self.next_offset, <int64_t> file.base_offset)
        cdef int64_t next_offset = behind if behind >= 0 else max(first, <int64_t> self.log_end())
        try:
            found = Segment(file.path, file.named_epoch)
            if (
                found.base_offset != file.base_offset or found.partition != self.log.partition
                or found.topic_uuid != self.log.uuid or file.named_epoch not in (0, found.epoch)
                or found.map_bytes != self.log.segment_bytes
            ):
                raise CorruptionError(f"{file.path} holds another segment than its name says")
        except CorruptionError as error:
            raise CorruptionError(
                f"{error}; offsets {first} to {next_offset - 1} cannot be read, "
                f"seek({next_offset}) goes on behind them",
                path=file.path, position=0, first_offset=first, next_offset=next_offset,
            ) from None
        return found

    cdef uint64_t readable(self, uint64_t end) except 0:
        """File position up to which the segment may be read when the partition ends at byte_pos `end`."""
        cdef uint64_t limit
        if end < self.segment.base_byte_pos:
            return SEGMENT_DATA_START
        limit = end - self.segment.base_byte_pos + SEGMENT_DATA_START
        if limit > self.segment.map_bytes:
            limit = self.segment.map_bytes
        if not self.segment.reaches(limit):
            limit = self.segment.file_limit
        return max(limit, <uint64_t> SEGMENT_DATA_START)

    cdef int cross(self, int64_t end_offset, unsigned int named_epoch) except -1:
        """Go to the segment that has `end_offset`, behind our footer; raise where there is none.

        Something behind the footer was published before this is called, so that the segment was there.
        """
        cdef Segment found
        cdef int64_t behind = -1
        path = f"{self.log.directory}/{segment_file_name(end_offset, named_epoch)}"
        try:
            self.segment = self.open_segment(SegmentFile(end_offset, named_epoch, path), -1)
            self.segment_end = -1
            self.position = SEGMENT_DATA_START
            return 0
        except (FileNotFoundError, CorruptionError):
            pass                     # rewritten segments took its place, or the list tells what is lost
        for file in reversed(list_segments(self.log.directory)):
            if file.base_offset > end_offset:
                behind = file.base_offset
                continue
            if file.path == self.segment.path or file.base_offset < self.segment.base_offset:
                break
            found = self.open_segment(file, behind)
            self.position = SEGMENT_DATA_START
            if found.base_offset != end_offset:
                self.position = found.position_of(end_offset, found.file_limit)
            self.segment, self.segment_end = found, behind
            return 0
        self.check_still_there()             # dropped in the meantime
        raise self.damage("the segment behind its footer is missing", behind)

    cdef RecordBatch fetch(self):
        self.busy = True
        try:
            return self.fetch_next()
        finally:
            self.busy = False

    cdef RecordBatch fetch_next(self):
        cdef uint64_t end, limit
        cdef int64_t last
        cdef const uint8_t* p
        cdef int what
        cdef RecordBatch batch
        self.limit(&end, &last)
        if atomic_load32(&self.log.slot.active_epoch) != self.epoch:
            self.note_cut()
        self.check_still_there()
        if atomic_load32(&self.log.control.header.rewrites) != self.rewrites:
            self.rewrites = atomic_load32(&self.log.control.header.rewrites)
            self.segment = None              # what we map may have been replaced, and takes room on the disk
        while True:
            if self.segment is None:
                if self.next_offset >= last:     # nothing to map it for
                    return None
                self.locate(end)
                if self.segment is None:
                    return None
            if self.segment.base_byte_pos + self.position - SEGMENT_DATA_START >= end:
                self.log.published(&end, &last)
                if self.next_offset < last and (
                    self.segment.base_byte_pos + self.position - SEGMENT_DATA_START >= end
                ):
                    raise self.damage("the log ends before its last records", last)
                return None
            # room for a footer, which stands behind the end of a sealed segment
            limit = self.readable(end)
            if self.position >= limit or not self.segment.reaches(limit):
                limit = self.segment.file_limit
            p = self.segment.map + self.position
            if self.position + 8 > limit:
                what = -1
            else:
                what = what_stands(
                    p, self.segment.file_limit - self.position, self.segment.salt, self.position
                )
            if what == STANDS_BATCH:
                if loadi64(p + BH_BASE_OFFSET) > self.next_offset and not self.gap_is_fine(p):
                    self.raise_damage(limit)
                if load32(p + BH_ATTRIBUTES) & <uint32_t> ATTR_MARK:
                    self.next_offset = max(self.next_offset, loadi64(p + BH_BASE_OFFSET))
                if load32(p + BH_ATTRIBUTES) & <uint32_t> ATTR_MARK or next_offset_of(p) <= self.next_offset:
                    self.position += load32(p + BH_TOTAL_LENGTH)
                    continue
                try:
                    batch = view_batch(
                        self.segment, p, self.log.topic, self.log.partition,
                        self.position >= self.segment.verified_to,
                        self.segment.map_bytes,
                    )
                except ValueError as error:
                    raise self.damage(str(error), next_offset_of(p)) from None
                self.position += load32(p + BH_TOTAL_LENGTH)
                if self.position > self.segment.verified_to:
                    self.segment.verified_to = self.position
                self.log.read_batches += 1
                self.log.read_records += batch.record_count
                self.log.read_bytes += batch.stored_bytes
                return batch
            if what == STANDS_FOOTER:
                behind = loadi64(p + FT_END_OFFSET)
                if behind > self.next_offset and self.segment_lost(behind):
                    raise self.damage("records are missing before the footer", behind)
                next_epoch = load32(p + FT_NEXT_EPOCH) if load32(p + FT_FLAGS) & FOOTER_CUT else 0
                self.cross(max(behind, self.next_offset), next_epoch)
            elif self.segment.replaced:
                self.check_still_there()
                self.segment = None          # compacted, as `rewrites` will say in a moment
            elif not self.nothing_is_lost():
                self.raise_damage(self.segment.file_limit)

    cdef bint gap_is_fine(self, const uint8_t* p) except -1:
        """Offsets may be left out where compaction, repair or deletion took them, and nowhere else."""
        return (
            self.next_offset < self.log.slot.log_start_offset
            or loadi64(p + BH_BASE_OFFSET) <= self.segment.range_end
        )

    cdef bint nothing_is_lost(self) except -1:
        """Go behind unreadable bytes where no record is missing, as with a mark or a footer, and say True."""
        cdef uint64_t found = find_next_valid(
            self.segment.map, self.position + 8, self.segment.file_limit, self.segment.salt
        )
        cdef const uint8_t* p = self.segment.map + found
        if found < self.segment.file_limit:
            what = BH_BASE_OFFSET if load32(p) == <uint32_t> BATCH_MAGIC else FT_END_OFFSET
            if loadi64(p + <int> what) > self.next_offset:
                return False
            self.position = found
            return True
        for file in list_segments(self.log.directory):
            if file.base_offset == self.next_offset and file.base_offset > self.segment.base_offset:
                self.cross(self.next_offset, file.named_epoch)
                return True
        return False

    def segment_lost(self, behind: int) -> bool:
        """True where the segment ends before the offset that its footer states."""
        return behind > self.next_offset >= self.segment.base_offset

    cdef int note_cut(self) except -1:
        """The partition was cut since we last looked: raise where that took records that we are behind."""
        newer = read_start(self.log.directory).newer_epoch(self.epoch)
        self.segment = None                  # its bytes behind the cut are no part of the log
        self.epoch = self.log.slot.active_epoch
        if newer is not None and newer[1] < self.next_offset:
            raise LogTruncatedError(
                f"{self.log.topic}-{self.log.partition} was cut at offset {newer[1]} (epoch {newer[0]}), "
                f"behind the "
                f"position {self.next_offset}: seek({newer[1]}) goes on there",
                offset=self.next_offset, resume_offset=newer[1], epoch=newer[0],
            )
        return 0

    cdef int raise_damage(self, uint64_t limit) except -1:
        """Something unreadable stands at the position: say where reading can go on."""
        cdef uint64_t found = find_next_valid(self.segment.map, self.position + 8, limit, self.segment.salt)
        cdef const uint8_t* p = self.segment.map + found
        cdef int64_t behind = -1
        if what_stands(
            self.segment.map + self.position, limit - self.position, self.segment.salt, self.position
        ) == STANDS_BATCH:
            behind = loadi64(self.segment.map + self.position + BH_BASE_OFFSET)
        elif found < limit:
            behind = loadi64(p + (BH_BASE_OFFSET if load32(p) == <uint32_t> BATCH_MAGIC else FT_END_OFFSET))
        else:
            for file in list_segments(self.log.directory):
                if file.base_offset > self.segment.base_offset:
                    behind = file.base_offset
                    break
        raise self.damage("no valid batch stands here", behind)

    def damage(self, reason: str, next_offset: int) -> CorruptionError:
        """The error for damage at the position; `next_offset` -1: nothing readable behind it."""
        if next_offset < 0:
            next_offset = self.log_end()
        return CorruptionError(
            f"{self.segment.path} is damaged at position {self.position}: {reason}; offsets "
            f"{self.next_offset} to "
            f"{next_offset - 1} cannot be read, seek({next_offset}) goes on behind them",
            path=self.segment.path, position=self.position, first_offset=self.next_offset,
            next_offset=next_offset,
        )

    def log_end(self) -> int:
        """The log end offset now."""
        cdef uint64_t end
        cdef int64_t last
        self.log.published(&end, &last)
        return last

    # ---- handing out ----------------------------------------------------------------------------------

    def next_batch(self) -> RecordBatch | None:
        """The rest of the current batch or the next one, None where nothing more is published.

        The batch may begin before `offset` was when a seek landed inside it: RecordBatch.first_at_or_after.
        """
        cdef RecordBatch batch = self.batch
        if batch is None:
            batch = self.fetch()
            if batch is None:
                return None
        self.batch = None
        self.next_offset = batch.next_offset
        return batch

    cdef RecordBatch current(self, bint something):
        """The batch at the position, or None; what is wrong there is told later if there is something."""
        cdef RecordBatch batch = self.batch
        if batch is not None:
            return batch
        try:
            batch = self.fetch()
        except Exception:
            if something:                            # hand out what is good first; the next call raises
                return None
            raise
        if batch is not None:
            self.index = 0
            if batch.base_offset < self.next_offset:
                self.index = batch.first_at_or_after(self.next_offset)
        return batch

    cdef int settle(self, RecordBatch batch) except -1:
        if self.index >= batch.record_count:
            self.batch = None
            self.next_offset = batch.next_offset
        else:
            self.batch = batch
            self.next_offset = batch.offset_at(self.index)
        return 0

    def poll(self, max_records: int = 500) -> list:
        """Up to `max_records` records that are there; an empty list where none is. Never waits."""
        cdef list out = None, some
        cdef int wanted = max_records, take
        cdef RecordBatch batch
        while wanted > 0:
            batch = self.current(bool(out))
            if batch is None:
                break
            take = batch.record_count - self.index
            if take > wanted:
                take = wanted
            some = batch.records(self.index, self.index + take)
            out = some if out is None else out + some if len(out) < len(some) else extended(out, some)
            wanted -= take
            self.index += take
            self.settle(batch)
        return [] if out is None else out

    def poll_matching(self, Matcher matcher not None, max_records: int, max_passed: int) -> list:
        """Up to `max_records` records that match or may match, looking at no more than `max_passed` others.

        Those that do not match never become objects; `rejected` counts them. `offset` stands behind all that
        was looked at.
        """
        cdef list out = []
        cdef int wanted = max_records, left = max_passed
        cdef RecordBatch batch
        while wanted > 0 and left > 0:
            batch = self.current(bool(out) or left < max_passed)
            if batch is None:
                break
            while self.index < batch.record_count and wanted > 0 and left > 0:
                if matcher.answer(batch, self.index) == NO:
                    left -= 1
                else:
                    out += batch.records(self.index, self.index + 1)
                    wanted -= 1
                self.index += 1
            self.settle(batch)
        self.rejected += max_passed - left
        return out

    def offset_for_time(self, timestamp: int) -> int | None:
        """The first offset whose record has a timestamp >= `timestamp` (ns since 1970), None where none has.

        Raises CorruptionError where damage may hide it.
        """
        cdef uint64_t end, limit, position
        cdef int64_t last, first
        cdef const uint8_t* p
        cdef Segment segment
        cdef int what = STANDS_NOTHING
        self.limit(&end, &last)
        files = list_segments(self.log.directory)
        for i, file in enumerate(files):
            if i + 1 < len(files) and files[i + 1].base_offset <= self.log.slot.log_start_offset:
                continue
            try:
                segment = self.open_segment(file, files[i + 1].base_offset if i + 1 < len(files) else -1)
            except FileNotFoundError:
                if i + 1 < len(files) and files[i + 1].base_offset <= self.log.slot.log_start_offset:
                    continue                 # dropped since it was listed
                raise
            segment.load_index()
            if segment.base_byte_pos >= end:
                break
            first = max(segment.base_offset, self.log.slot.log_start_offset)
            limit = min(segment.file_limit, end - segment.base_byte_pos + SEGMENT_DATA_START)
            position = segment.position_of_time(timestamp, limit)
            while position + BATCH_HEADER_BYTES <= limit:
                p = segment.map + position
                what = what_stands(p, segment.file_limit - position, segment.salt, position)
                if what != STANDS_BATCH:
                    break
                if (
                    max_timestamp_of(p) >= timestamp
                    and next_offset_of(p) > first
                    and load32(p + BH_RECORD_COUNT)
                ):
                    return self.walk_to_time(timestamp, max(first, loadi64(p + BH_BASE_OFFSET)))
                position += load32(p + BH_TOTAL_LENGTH)
            if what != STANDS_FOOTER and segment.base_byte_pos + position - SEGMENT_DATA_START < end:
                # damage: whoever reads through it is told what cannot be read
                return self.walk_to_time(timestamp, first)
        return None

    def walk_to_time(self, timestamp: int, offset: int) -> int | None:
        """offset_for_time() from an offset on, record by record; our own position stays."""
        reader = PartitionReader(self.log, self.owner, offset, self.synced_only)
        while (batch := reader.next_batch()) is not None:
            for record in batch:
                if record.timestamp >= timestamp and record.offset >= self.log.slot.log_start_offset:
                    return record.offset
        return None


cdef list extended(list out, list some):
    out.extend(some)
    return out
