# cython: language_level=3
"""Reading one partition from an offset on, through mapped segments.

A reader takes no lock: it loads the published (or synced) end and walks up to it, from segment to segment by
their footers. One thread at a time uses it. Invariant: records come in offset order without a gap that is not
told: damage raises CorruptionError and leaves the position where it was.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.batch cimport RecordBatch, view_batch
from logcore.batch_header cimport STANDS_BATCH, STANDS_FOOTER, max_timestamp_of, next_offset_of, what_stands
from logcore.control cimport atomic_load32
from logcore.format cimport *
from logcore.partition_log cimport PartitionLog
from logcore.segment cimport Segment, find_next_valid

from logcore.errors import ClosedError, CorruptionError, LogTruncatedError, OffsetOutOfRangeError
from logcore.segment_files import list_segments, read_start, segment_file_name


cdef class PartitionReader:
    """Reads `log` from `offset` on; `synced_only` hands out nothing that a power cut could take away."""

    def __cinit__(self, PartitionLog log, owner: object, offset: int, synced_only: bool = False):
        self.log = log
        self.owner = owner
        self.synced_only = synced_only
        log.ensure_ready()
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
        self.next_offset = offset
        self.epoch = self.log.slot.active_epoch
        self.segment = None
        self.batch = None

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
        self.segment = Segment(files[i].path, files[i].named_epoch)
        if i + 1 < len(files):
            self.segment.load_index()
        limit = self.readable(end)
        self.position = self.segment.position_of(self.next_offset, limit)
        return 0

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
        """Go to the segment behind a footer; stay where it is not there yet."""
        cdef Segment found
        path = f"{self.log.directory}/{segment_file_name(end_offset, named_epoch)}"
        try:
            self.segment = Segment(path, named_epoch)
            self.position = SEGMENT_DATA_START
            return 1
        except FileNotFoundError:                # not there yet, or a rewriting of segments took its place
            pass
        for file in reversed(list_segments(self.log.directory)):
            if file.base_offset <= end_offset:
                if file.path != self.segment.path:
                    found = Segment(file.path, file.named_epoch)
                    if found.base_offset < self.segment.base_offset:
                        return 0
                    self.segment = found
                    self.position = SEGMENT_DATA_START
                    if found.base_offset != end_offset:
                        self.position = found.position_of(end_offset, found.file_limit)
                    return 1
                return 0
        return 0

    cdef RecordBatch fetch(self):
        cdef uint64_t end, limit
        cdef int64_t last
        cdef const uint8_t* p
        cdef int what
        cdef RecordBatch batch
        self.limit(&end, &last)
        if self.log.control.header.deleted:
            raise ClosedError(f"topic {self.log.topic!r} was deleted")
        if atomic_load32(&self.log.slot.active_epoch) != self.epoch:
            self.note_cut()
        while True:
            if self.segment is None:
                self.locate(end)
                if self.segment is None:
                    return None
            if self.segment.base_byte_pos + self.position - SEGMENT_DATA_START >= end:
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
                if load32(p + BH_ATTRIBUTES) & <uint32_t> ATTR_MARK or next_offset_of(p) <= self.next_offset:
                    self.position += load32(p + BH_TOTAL_LENGTH)
                    continue
                if loadi64(p + BH_BASE_OFFSET) > self.next_offset and not self.gap_is_fine(p):
                    self.raise_damage(limit)
                try:
                    batch = view_batch(
                        self.segment, p, self.log.topic, self.log.partition,
                        self.position >= self.segment.verified_to,
                        MAX_BATCH_BYTES,
                    )
                except ValueError as error:
                    raise self.damage(str(error), next_offset_of(p)) from None
                self.position += load32(p + BH_TOTAL_LENGTH)
                if self.position > self.segment.verified_to:
                    self.segment.verified_to = self.position
                return batch
            if what == STANDS_FOOTER:
                behind = loadi64(p + FT_END_OFFSET)
                if behind > self.next_offset and self.segment_lost(behind):
                    raise self.damage("records are missing before the footer", behind)
                next_epoch = load32(p + FT_NEXT_EPOCH) if load32(p + FT_FLAGS) & FOOTER_CUT else 0
                if self.cross(max(behind, self.next_offset), next_epoch) == 0:
                    return None
                continue
            self.raise_damage(self.segment.file_limit)

    cdef bint gap_is_fine(self, const uint8_t* p) except -1:
        """Offsets may be left out where compaction or deletion took them, never in an original segment."""
        return self.next_offset < self.log.slot.log_start_offset

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

    def poll(self, max_records: int = 500) -> list:
        """Up to `max_records` records that are there; an empty list where none is. Never waits."""
        cdef list out = None, some
        cdef int wanted = max_records, take
        cdef RecordBatch batch
        while wanted > 0:
            batch = self.batch
            if batch is None:
                try:
                    batch = self.fetch()
                except Exception:
                    if out:                      # hand out what is good first; the next call raises
                        break
                    raise
                if batch is None:
                    break
                self.index = 0
                if batch.base_offset < self.next_offset:
                    self.index = batch.first_at_or_after(self.next_offset)
            take = batch.record_count - self.index
            if take > wanted:
                take = wanted
            some = batch.records(self.index, self.index + take)
            out = some if out is None else out + some if len(out) < len(some) else extended(out, some)
            wanted -= take
            self.index += take
            if self.index >= batch.record_count:
                self.batch = None
                self.next_offset = batch.next_offset
            else:
                self.batch = batch
                self.next_offset = batch.offset_at(self.index)
        return [] if out is None else out

    def offset_for_time(self, timestamp: int) -> int | None:
        """The first offset of a record with a timestamp >= `timestamp` (ns since 1970), or None."""
        cdef uint64_t end, limit
        cdef int64_t last
        cdef const uint8_t* p
        cdef Segment segment
        cdef RecordBatch batch
        cdef int i
        self.limit(&end, &last)
        for file in list_segments(self.log.directory):
            segment = Segment(file.path, file.named_epoch)
            segment.load_index()
            if segment.base_byte_pos >= end:
                break
            limit = min(segment.file_limit, end - segment.base_byte_pos + SEGMENT_DATA_START)
            position = segment.position_of_time(timestamp, limit)
            while position + BATCH_HEADER_BYTES <= limit:
                p = segment.map + <uint64_t> position
                if what_stands(p, limit - position, segment.salt, position) != STANDS_BATCH:
                    break
                if max_timestamp_of(p) >= timestamp and load32(p + BH_RECORD_COUNT):
                    batch = view_batch(segment, p, self.log.topic, self.log.partition, True, MAX_BATCH_BYTES)
                    for i in range(batch.record_count):
                        if (
                            batch.timestamp_at(i) >= timestamp
                            and batch.offset_at(i) >= self.log.slot.log_start_offset
                        ):
                            return batch.offset_at(i)
                position += load32(p + BH_TOTAL_LENGTH)
        return None


cdef list extended(list out, list some):
    out.extend(some)
    return out
