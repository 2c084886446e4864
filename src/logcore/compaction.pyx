# cython: language_level=3
"""Compaction: rewrites sealed segments, one for one, without records that a later one of their key replaced.

What stays keeps offset, order, timestamp, headers and bytes; a segment keeps its name, base and end offset,
and its producer table. The new file is written beside the old one, synced, and renamed over it under the
append lock: a kill at any step leaves one of the two, and who maps the old one reads on in it. No policy:
what is compacted, and when, the caller says, who is the only one at it. Small batches that stand side by side
and name no producer become large compressed ones; segments are never merged.
Invariant: only sealed records that are on disk are looked at; a damaged segment is never rewritten.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from logcore.batch cimport RecordBatch
from logcore.batch_header cimport seal_batch_header
from logcore.batch_run cimport BatchRun
from logcore.columns cimport bit_at, columns_t
from logcore.control cimport atomic_add, atomic_loadi64
from logcore.failpoints cimport failpoint, planted
from logcore.format cimport *
from logcore.hashing cimport header_checksum, xxh3
from logcore.key_map cimport KeyMap
from logcore.linux cimport CLOCK_REALTIME, clock_ns, write_all
from logcore.partition_log cimport PartitionLog
from logcore.scan cimport SegmentScan
from logcore.sealed_segments cimport Walk
from logcore.segment cimport fill_footer
from logcore.zstd cimport compress_bytes, make_compressor

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from logcore.recovery import sync_paths
from logcore.sealed_segments import SealedSegment
from logcore.segment import Segment
from logcore.segment_files import caches_of

cdef enum:
    WRITE_BYTES = 1 << 20
    COMPRESSION_LEVEL = 3
    SMALL_BODY = 32 << 10        # a batch with a larger body is not merged with others
    MERGED_BODY = 256 << 10      # what a merged one grows to, where segments are large enough

SUFFIX = ".rewrite.tmp"


class Rewritten(NamedTuple):
    """What became of a segment; `removed` 0: it is as it was, `outgrown`: though records should have gone."""

    records: int
    removed: int
    bytes_before: int
    bytes_after: int
    outgrown: bool = False


def rewrite_segment(
    PartitionLog log, KeyMap keys, segment: SealedSegment, covered: int, tombstones_below: int,
    pace: Callable[[int], None] | None = None,
) -> Rewritten:
    """Rewrite a segment without the records that `keys`, which knows all below `covered`, has later ones for.

    Tombstones below `tombstones_below` go too. A segment from which nothing goes stays as it is. Offsets that
    are no longer dense take room: where a segment would outgrow segment_bytes its changed batches are
    compressed, and if that does not do it stays as it is.

    Raises CorruptionError (it is damaged: it stays as it is), DiskFullError, OSError, LockTimeoutError.
    """
    for compress in (False, True):
        work = Rewriting(log, keys, segment, covered, tombstones_below, compress)
        found = work.run(pace)
        if not found.outgrown:
            break
    return found


def remove_unfinished(PartitionLog log) -> None:
    """Unlink what a killed compaction left; the caller is the only one who compacts."""
    for name in os.listdir(log.directory) if os.path.isdir(log.directory) else ():
        if name.endswith(SUFFIX):
            with suppress(FileNotFoundError):
                os.unlink(f"{log.directory}/{name}")


cdef class Rewriting:
    """One segment being rewritten."""

    cdef PartitionLog log
    cdef KeyMap keys
    cdef object segment
    cdef int64_t covered, tombstones_below
    cdef uint32_t* kept                # indices of the records of a batch that stay
    cdef uint8_t* out                  # what is not written yet
    cdef uint64_t out_bytes, out_capacity
    cdef uint64_t written              # file position of `out`
    cdef int fd
    cdef uint64_t salt
    cdef bytes header
    cdef object compressor
    cdef BatchRun gathered             # small batches that become one, not written yet
    cdef int64_t records, removed, batches
    cdef uint32_t epoch
    cdef uint64_t footer_bytes
    cdef bint compress                 # also what was not compressed before
    cdef bint outgrown                 # a batch has become larger than a reader takes

    def __cinit__(
        self, PartitionLog log, KeyMap keys, segment: SealedSegment, covered: int, tombstones_below: int,
        compress: bool,
    ):
        self.log, self.keys, self.segment = log, keys, segment
        self.covered, self.tombstones_below, self.compress = covered, tombstones_below, compress
        self.fd = -1
        self.gathered = BatchRun.__new__(BatchRun)
        self.kept = <uint32_t*> malloc(MAX_RECORDS_PER_BATCH * sizeof(uint32_t))
        if self.kept is NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.kept)
        free(self.out)

    def run(self, pace: Callable[[int], None] | None) -> Rewritten:
        """Look for what goes; write the rest where there is any such record."""
        cdef Walk walk = Walk(self.log, self.segment)
        cdef int stay
        identity = os.fstat(walk.scan.fd).st_ino
        before = self.segment.stored_bytes
        unchanged = Rewritten(0, 0, before, before)
        try:
            while walk.next():
                if walk.batch is None:
                    continue
                stay = self.keys.survivors(walk.batch, self.covered, self.tombstones_below, self.kept)
                self.records += walk.batch.record_count
                if stay < walk.batch.record_count:
                    break
                if pace is not None:
                    pace(walk.scan.length)
            else:
                return unchanged._replace(records=self.records)
            first_changed = walk.scan.position
            self.records = 0
            walk.scan.seek(SEGMENT_DATA_START)
            temporary = f"{self.log.directory}/{secrets.token_hex(8)}{SUFFIX}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self.fd = os.open(temporary, flags, 0o600)
            try:
                end = self.write(walk, first_changed, pace)
                if end > self.log.segment_bytes:
                    return unchanged._replace(records=self.records, outgrown=True)
                if not self.install(temporary, identity, end):
                    return unchanged._replace(records=self.records)
            finally:
                os.close(self.fd)
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
        finally:
            walk.scan.close()
        return Rewritten(self.records, self.removed, before, end)

    cdef uint64_t write(self, Walk walk, uint64_t first_changed, object pace) except 0:
        """Write the whole file, on disk on return; its bytes."""
        cdef int stay
        cdef int64_t behind = self.segment.base_offset
        self.begin(walk.scan)
        while walk.next():
            if walk.batch is None:
                continue
            stay = walk.batch.record_count
            self.records += stay
            if walk.scan.position >= first_changed:
                stay = self.keys.survivors(walk.batch, self.covered, self.tombstones_below, self.kept)
            if stay:
                self.put(walk.batch, walk.scan.entry, walk.scan.length, stay)
                behind = walk.batch.next_offset
            self.removed += walk.batch.record_count - stay
            if self.outgrown or self.position() + FOOTER_PRODUCERS > self.log.segment_bytes:
                return self.log.segment_bytes + 1
            if pace is not None:
                pace(2 * walk.scan.length)
        self.put_gathered()
        if behind < self.segment.end_offset:
            self.put_mark(self.segment.end_offset)
        self.put_footer(walk.scan)
        self.flush()
        failpoint("compact.written")
        if not planted("rewrite_not_synced"):
            os.fsync(self.fd)
        failpoint("compact.synced")
        return self.written

    cdef bint install(self, str temporary, object identity, uint64_t end) except -1:
        """Put the new file in the place of the old one; False where that is gone or another by now."""
        path = self.segment.file.path
        self.log.take_lock()
        try:
            try:
                same = os.stat(path, follow_symlinks=False).st_ino == identity
            except FileNotFoundError:
                return False
            if not same or self.segment.end_offset <= atomic_loadi64(&self.log.slot.log_start_offset):
                return False
            for cache in caches_of(path):
                with suppress(FileNotFoundError):
                    os.unlink(cache)
            failpoint("compact.locked")
            try:
                os.rename(temporary, path)
            except FileNotFoundError:                  # a recovery took it for a leftover
                return False
            failpoint("compact.renamed")
            atomic_add(&self.log.control.header.rewrites, 1)
        finally:
            self.log.control.unlock(self.log.partition)
        sync_paths(self.log.directory)
        failpoint("compact.named")
        with suppress(OSError):                        # a cache
            Segment(path, self.segment.file.named_epoch).save_index(end - self.footer_bytes)
        failpoint("compact.done")
        return True

    # ---- writing ---------------------------------------------------------------------------------------

    cdef inline uint64_t position(self) noexcept nogil:
        return self.written + self.out_bytes

    cdef uint8_t* room(self, uint64_t size) except NULL:
        """`size` bytes behind what is not written yet."""
        cdef uint8_t* grown
        if self.out_bytes >= WRITE_BYTES:
            self.flush()
        if self.out_bytes + size > self.out_capacity:
            grown = <uint8_t*> realloc(self.out, self.out_bytes + size + WRITE_BYTES)
            if grown is NULL:
                raise MemoryError()
            self.out = grown
            self.out_capacity = self.out_bytes + size + WRITE_BYTES
        return self.out + self.out_bytes

    cdef int flush(self) except -1:
        cdef int error
        with nogil:
            error = write_all(self.fd, self.out, self.out_bytes, self.written)
        if error:
            from logcore.partition_log import raise_os_error
            raise_os_error(error, self.log.directory)
        self.written += self.out_bytes
        self.out_bytes = 0
        return 0

    cdef int begin(self, SegmentScan scan) except -1:
        """Write both segment headers: those of the old file, with a salt of their own and the range's end."""
        cdef uint8_t header[SEGMENT_HEADER_BYTES]
        cdef uint8_t* place = self.room(SEGMENT_DATA_START)
        memcpy(header, <const char*> scan.header, SEGMENT_HEADER_BYTES)
        self.salt = secrets.randbits(64)
        store64(header + SH_SALT, self.salt)
        storei64(header + SH_CREATED, clock_ns(CLOCK_REALTIME))
        storei64(header + SH_RANGE_END, self.segment.end_offset)
        store64(header + SH_CHECKSUM, header_checksum(header, SH_CHECKSUM, 0, 0))
        memset(place, 0, SEGMENT_DATA_START)
        memcpy(place, header, SEGMENT_HEADER_BYTES)
        memcpy(place + SEGMENT_HEADER_COPY, header, SEGMENT_HEADER_BYTES)
        self.header = header[:SEGMENT_HEADER_BYTES]
        self.epoch = load32(header + SH_EPOCH)
        self.out_bytes += SEGMENT_DATA_START
        return 0

    cdef int put(self, RecordBatch batch, const uint8_t* source, uint64_t size, int stay) except -1:
        """A batch of which `stay` records stay: by itself, or gathered where it is small."""
        cdef bint whole = stay == batch.record_count
        cdef int64_t most = min(<int64_t> MERGED_BODY, <int64_t> self.log.segment_bytes // 4)
        if batch.columns.body_bytes <= SMALL_BODY and not (
            batch.has_producer or batch.attributes & ATTR_BLOCK_TRANSACTION
        ):
            if not self.gathered.takes(batch, stay, most):
                self.put_gathered()
            return self.gathered.add(batch, source, NULL if whole else self.kept, stay)
        self.put_gathered()
        self.batches += 1
        if whole:
            return self.put_whole(source, size)
        return self.put_survivors(batch, source, stay)

    cdef int put_gathered(self) except -1:
        """Write what was gathered as one batch, compressed where several became one."""
        cdef uint32_t front, length
        cdef uint8_t* place
        cdef bint compress = self.gathered.batches > 1 or self.gathered.compressed or self.compress
        if self.gathered.count == 0:
            return 0
        place = self.room(self.gathered.room())
        length = self.gathered.encode(place, &front)
        self.batches += 1
        return self.end_batch(place, front, length - front, compress)

    cdef int put_whole(self, const uint8_t* batch, uint64_t size) except -1:
        """A batch of which all stays: as it is, sealed for its new place."""
        cdef uint8_t* place = self.room(size)
        memcpy(place, batch, size)
        self.seal(place)
        self.out_bytes += size
        return 0

    cdef void seal(self, uint8_t* batch) noexcept nogil:
        seal_batch_header(
            batch, loadi64(batch + BH_BASE_OFFSET), self.epoch, loadi64(batch + BH_SYNCED_OFFSET), self.salt,
            self.position()
        )

    cdef int put_mark(self, int64_t offset) except -1:
        """A mark that leads to the end offset, which the last records do not reach any more."""
        cdef uint8_t* mark = self.room(BATCH_HEADER_BYTES)
        memset(mark, 0, BATCH_HEADER_BYTES)
        store32(mark + BH_MAGIC, BATCH_MAGIC)
        store32(mark + BH_TOTAL_LENGTH, BATCH_HEADER_BYTES)
        store32(mark + BH_ATTRIBUTES, <uint32_t> ATTR_MARK)
        storei64(mark + BH_BASE_OFFSET, offset)
        storei64(mark + BH_SYNCED_OFFSET, offset)
        storei64(mark + BH_BASE_TIMESTAMP, clock_ns(CLOCK_REALTIME))
        store64(mark + BH_BODY_CHECKSUM, xxh3(mark, 0))
        self.seal(mark)
        self.out_bytes += BATCH_HEADER_BYTES
        return 0

    cdef int put_footer(self, SegmentScan scan) except -1:
        """The old footer, with what has changed: its place, the batches, and that all is on disk."""
        cdef const uint8_t* old = scan.peek(scan.position, scan.length)
        cdef uint8_t* footer = self.room(scan.length)
        memcpy(footer, old, scan.length)
        self.footer_bytes = fill_footer(
            footer, <const uint8_t*> <const char*> self.header, self.segment.end_offset, self.position(),
            self.batches, loadi64(old + FT_MAX_TIMESTAMP), self.segment.end_offset, load32(old + FT_FLAGS),
            load32(old + FT_NEXT_EPOCH), loadi64(old + FT_SEALED), load32(old + FT_PRODUCER_COUNT),
        )
        self.out_bytes += scan.length
        return 0

    # ---- a batch of which some records stay --------------------------------------------------------------

    cdef int put_survivors(self, RecordBatch batch, const uint8_t* source, int n) except -1:
        cdef uint32_t attributes = batch.attributes & ~<uint32_t> ATTR_CODEC_MASK
        cdef uint32_t front, raw
        cdef uint8_t* place
        attributes |= ATTR_OFFSET_DELTAS | ATTR_BLOCK_OFFSET_SPAN
        if batch.has_producer:
            attributes |= ATTR_SEQUENCES
        front = BATCH_HEADER_BYTES + blocks_bytes(attributes)
        raw = self.body_bytes(batch, attributes, n)
        if raw > self.log.segment_bytes:
            self.outgrown = True
            return 0
        place = self.room(front + <uint64_t> raw)
        with nogil:
            self.put_columns(batch, attributes, n, place + front)
        self.put_header(batch, source, attributes, n, place)
        store32(place + BH_ATTRIBUTES, attributes)
        store32(place + BH_RAW_BODY_BYTES, raw)
        return self.end_batch(
            place, front, raw, self.compress or batch.attributes & ATTR_CODEC_MASK == CODEC_ZSTD
        )

    cdef int end_batch(self, uint8_t* place, uint32_t front, uint32_t raw, bint compress) except -1:
        """Compress the raw body behind `front` where that makes it smaller, and seal the batch."""
        cdef uint32_t stored = raw
        cdef bytes frame
        if compress:
            if self.compressor is None:
                self.compressor = make_compressor(COMPRESSION_LEVEL)
            frame = compress_bytes(self.compressor, place + front, raw)
            if 8 + align8(len(frame)) < raw:
                stored = 8 + <uint32_t> align8(len(frame))
                memset(place + front, 0, stored)
                store32(place + front, <uint32_t> len(frame))
                memcpy(place + front + 8, <const char*> frame, len(frame))
                store32(place + BH_ATTRIBUTES, load32(place + BH_ATTRIBUTES) | <uint32_t> CODEC_ZSTD)
        store32(place + BH_TOTAL_LENGTH, front + stored)
        store64(place + BH_BODY_CHECKSUM, xxh3(place + front, stored))
        self.seal(place)
        self.out_bytes += front + stored
        return 0

    cdef int put_header(
        self, RecordBatch batch, const uint8_t* source, uint32_t attributes, int n, uint8_t* place
    ) except -1:
        """Header and blocks, but for lengths, attributes and checksums."""
        cdef uint8_t* block
        cdef int64_t newest
        cdef int i
        memcpy(place, source, BATCH_HEADER_BYTES)
        store32(place + BH_RECORD_COUNT, n)
        storei64(place + BH_BASE_TIMESTAMP, batch.timestamp_at(self.kept[0]))
        if attributes & ATTR_BLOCK_MAX_TIMESTAMP:
            newest = batch.timestamp_at(self.kept[0])
            for i in range(1, n):
                newest = max(newest, batch.timestamp_at(self.kept[i]))
            storei64(place + block_position(attributes, ATTR_BLOCK_MAX_TIMESTAMP), newest)
        if attributes & ATTR_BLOCK_PRODUCER:
            block = place + block_position(attributes, ATTR_BLOCK_PRODUCER)
            memcpy(
                block, source + block_position(batch.attributes, ATTR_BLOCK_PRODUCER), BLOCK_PRODUCER_BYTES
            )
            storei64(block + PB_FIRST_SEQUENCE, batch.sequence_at(self.kept[0]))
            storei64(block + PB_LAST_SEQUENCE, batch.sequence_at(self.kept[n - 1]))
        if attributes & ATTR_BLOCK_TRANSACTION:
            memcpy(
                place + block_position(attributes, ATTR_BLOCK_TRANSACTION),
                source + block_position(batch.attributes, ATTR_BLOCK_TRANSACTION), BLOCK_TRANSACTION_BYTES
            )
        storei64(
            place + block_position(attributes, ATTR_BLOCK_OFFSET_SPAN), batch.next_offset - batch.base_offset
        )
        return 0

    cdef uint32_t body_bytes(self, RecordBatch batch, uint32_t attributes, int n) noexcept nogil:
        """Bytes of the raw body of the records that stay."""
        cdef const columns_t* columns = &batch.columns
        cdef uint64_t offsets = align8(4 * (<uint64_t> n + 1)), bits = align8((n + 7) >> 3)
        cdef uint64_t size = align8(4 * <uint64_t> n) + offsets
        size += align8(self.data_bytes(columns.value_offsets, n))
        if attributes & ATTR_TIMESTAMPS:
            size += 8 * <uint64_t> n
        if attributes & ATTR_SEQUENCES:
            size += 8 * <uint64_t> n
        if attributes & ATTR_KEY_NULLS:
            size += bits
        if attributes & ATTR_VALUE_NULLS:
            size += bits
        if attributes & ATTR_KEYS:
            size += offsets + align8(self.data_bytes(columns.key_offsets, n))
        if attributes & ATTR_HEADERS:
            size += offsets + align8(self.data_bytes(columns.header_offsets, n))
        return <uint32_t> size

    cdef uint64_t data_bytes(self, const int32_t* offsets, int n) noexcept nogil:
        cdef uint64_t size = 0
        cdef int i
        for i in range(n):
            size += offsets[self.kept[i] + 1] - offsets[self.kept[i]]
        return size

    cdef void put_columns(self, RecordBatch batch, uint32_t attributes, int n, uint8_t* at) noexcept nogil:
        """The columns in the order of FORMAT.md, zeros between them."""
        cdef const columns_t* columns = &batch.columns
        cdef int i
        if attributes & ATTR_TIMESTAMPS:
            for i in range(n):
                storei64(at + 8 * <size_t> i, columns.timestamps[self.kept[i]])
            at += 8 * <size_t> n
        for i in range(n):
            store32(at + 4 * <size_t> i, <uint32_t> (batch.offset_at(self.kept[i]) - batch.base_offset))
        at = padded(at, 4 * <uint64_t> n)
        if attributes & ATTR_SEQUENCES:
            for i in range(n):
                storei64(at + 8 * <size_t> i, batch.sequence_at(self.kept[i]))
            at += 8 * <size_t> n
        if attributes & ATTR_KEY_NULLS:
            at = self.put_bits(columns.key_validity, n, at)
        if attributes & ATTR_VALUE_NULLS:
            at = self.put_bits(columns.value_validity, n, at)
        if attributes & ATTR_KEYS:
            at = self.put_binary(columns.key_offsets, columns.keys, n, at)
        if attributes & ATTR_HEADERS:
            at = self.put_binary(columns.header_offsets, columns.headers, n, at)
        self.put_binary(columns.value_offsets, columns.values, n, at)

    cdef uint8_t* put_bits(self, const uint8_t* bits, int n, uint8_t* at) noexcept nogil:
        cdef int i
        memset(at, 0, (n + 7) >> 3)
        for i in range(n):
            if bit_at(bits, self.kept[i]):
                at[i >> 3] |= 1 << (i & 7)
        return padded(at, (n + 7) >> 3)

    cdef uint8_t* put_binary(
        self, const int32_t* offsets, const uint8_t* data, int n, uint8_t* at
    ) noexcept nogil:
        """Offsets and bytes of one column; records that stay side by side go by one copy."""
        cdef uint8_t* place = padded(at, 4 * (<uint64_t> n + 1)) if n else at
        cdef uint8_t* begin = place
        cdef int i = 0, first
        cdef int32_t size
        store32(at, 0)
        while i < n:
            first = i
            size = <int32_t> (place - begin)
            while True:
                store32(
                    at + 4 * (<size_t> i + 1),
                    size + offsets[self.kept[i] + 1] - offsets[self.kept[first]]
                )
                i += 1
                if i == n or self.kept[i] != self.kept[i - 1] + 1:
                    break
            size = offsets[self.kept[i - 1] + 1] - offsets[self.kept[first]]
            memcpy(place, data + offsets[self.kept[first]], size)
            place += size
        return padded(begin, place - begin)


cdef inline uint8_t* padded(uint8_t* column, uint64_t size) noexcept nogil:
    """The place behind a column of `size` bytes; what lies before it is zero."""
    memset(column + size, 0, align8(size) - size)
    return column + align8(size)
