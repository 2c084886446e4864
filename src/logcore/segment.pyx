# cython: language_level=3
"""One segment file: its name, header and footer as written, and a mapped view of it to read by.

The view maps segment_bytes of address space whatever the file's size, so that it stays good while the file
grows; `reaches()` is asked before anything behind the known size is touched. The sparse index is a cache:
loaded from the .index file where that fits the segment's salt, else built by walking headers. Invariant: no
byte behind `file_limit` and none behind the caller's limit is read.
"""

from libc.errno cimport errno
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from logcore.batch_header cimport (
    STANDS_BATCH, STANDS_FOOTER, check_batch, check_footer, max_timestamp_of, next_offset_of, what_stands,
)
from logcore.format cimport *
from logcore.hashing cimport header_checksum, xxh3
from logcore.linux cimport (
    MAP_FAILED, MAP_SHARED, O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, PROT_READ, close, file_bytes, mmap,
    munmap,
    open as open_file, read_all,
)

import os
import secrets

from logcore.errors import CorruptionError, FormatError
from logcore.scan import parse_segment_header
from logcore.whole_files import clear_error

cdef int64_t NO_TIMESTAMP = -<int64_t> 0x7FFFFFFFFFFFFFFF - 1


cdef void segment_name(char* out, int partition, int64_t base_offset, uint32_t named_epoch) noexcept nogil:
    if named_epoch:
        snprintf(out, NAME_BYTES, "%d/%020lld-%u.log", partition, <long long> base_offset, named_epoch)
    else:
        snprintf(out, NAME_BYTES, "%d/%020lld.log", partition, <long long> base_offset)


cdef void fill_segment_header(
    uint8_t* out, uint64_t salt, int64_t base_offset, uint32_t epoch, uint32_t partition, const uint8_t* uuid,
    uint64_t segment_bytes, int64_t created, uint64_t base_byte_pos, int64_t synced_offset,
) noexcept nogil:
    memset(out, 0, SEGMENT_HEADER_BYTES)
    memcpy(out + SH_MAGIC, <const char*> b"pylogseg", 8)
    store16(out + SH_VERSION, FORMAT_VERSION)
    store16(out + SH_HEADER_BYTES, SEGMENT_HEADER_BYTES)
    store64(out + SH_SALT, salt)
    storei64(out + SH_BASE_OFFSET, base_offset)
    store32(out + SH_EPOCH, epoch)
    store32(out + SH_PARTITION, partition)
    memcpy(out + SH_TOPIC_UUID, uuid, 16)
    store64(out + SH_SEGMENT_BYTES, segment_bytes)
    storei64(out + SH_CREATED, created)
    store64(out + SH_BASE_BYTE_POS, base_byte_pos)
    storei64(out + SH_SYNCED_OFFSET, synced_offset)
    storei64(out + SH_RANGE_END, -1)
    store64(out + SH_CHECKSUM, header_checksum(out, SH_CHECKSUM, 0, 0))


cdef uint32_t fill_footer(
    uint8_t* out, const uint8_t* segment_header, int64_t end_offset, uint64_t position, uint64_t batches,
    int64_t max_timestamp, int64_t synced_offset, uint32_t flags, uint32_t next_epoch, int64_t sealed,
    uint32_t producer_count,
) noexcept nogil:
    cdef uint32_t total = FOOTER_PRODUCERS + producer_count * PRODUCER_ENTRY_BYTES
    memset(out, 0, FOOTER_FIXED_BYTES)
    memcpy(out + FOOTER_HEADER_COPY, segment_header, SEGMENT_HEADER_BYTES)
    store32(out + FT_MAGIC, FOOTER_MAGIC)
    store32(out + FT_TOTAL_LENGTH, total)
    storei64(out + FT_END_OFFSET, end_offset)
    store64(out + FT_END_POSITION, position)
    store64(out + FT_BATCH_COUNT, batches)
    storei64(out + FT_MAX_TIMESTAMP, max_timestamp)
    storei64(out + FT_SYNCED_OFFSET, synced_offset)
    store32(out + FT_FLAGS, flags)
    store32(out + FT_NEXT_EPOCH, next_epoch)
    storei64(out + FT_SEALED, sealed)
    store32(out + FT_PRODUCER_COUNT, producer_count)
    store64(out + FT_BODY_CHECKSUM, xxh3(out + FOOTER_FIXED_BYTES, total - FOOTER_FIXED_BYTES))
    store64(out + FT_CHECKSUM, header_checksum(out, FT_CHECKSUM, load64(segment_header + SH_SALT), position))
    return total


cdef uint64_t find_next_valid(
    const uint8_t* map, uint64_t position, uint64_t limit, uint64_t salt
) noexcept nogil:
    cdef uint32_t magic
    while position + BATCH_HEADER_BYTES <= limit:
        magic = load32(map + position)
        if magic == <uint32_t> BATCH_MAGIC and check_batch(map + position, limit - position, salt, position):
            return position
        if magic == <uint32_t> FOOTER_MAGIC and check_footer(
            map + position, limit - position, salt, position
        ):
            return position
        position += 8
    return limit


cdef class Segment:
    """A mapped, read-only segment. Raises FormatError, CorruptionError (no valid header), OSError.

    `path` is the file; `named_epoch` the epoch in its name, 0 where there is none.
    """

    def __cinit__(self, path: str, named_epoch: int):
        cdef int fd = open_file(os.fsencode(path), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        cdef void* mapping
        cdef bytes copy = b""
        cdef uint8_t front[SEGMENT_HEADER_BYTES]
        if fd < 0:
            failure = clear_error(OSError(errno, os.strerror(errno)), path)
            if isinstance(failure, FormatError):
                raise CorruptionError(str(failure), path=path, position=0)
            raise failure
        try:
            size = file_bytes(fd)
            if size < 0:
                raise CorruptionError(f"{path} is not a plain file", path=path, position=0)
            inode = os.fstat(fd).st_ino
            if size < SEGMENT_DATA_START:
                raise CorruptionError(
                    f"{path} is too short for a segment: {size} bytes", path=path, position=0
                )
            header = None
            for position in (0, SEGMENT_HEADER_COPY):
                error = read_all(fd, front, SEGMENT_HEADER_BYTES, position)
                if error:
                    raise OSError(error, os.strerror(error), path)
                copy = front[:SEGMENT_HEADER_BYTES]
                header = parse_segment_header(copy)
                if header is not None:
                    break
            if header is None:
                raise CorruptionError(f"{path} has no valid segment header", path=path, position=0)
            self.map_bytes = max(<uint64_t> header.segment_bytes, <uint64_t> SEGMENT_DATA_START)
            mapping = mmap(NULL, self.map_bytes, PROT_READ, MAP_SHARED, fd, 0)
            if mapping is MAP_FAILED:
                raise OSError(errno, f"cannot map: {os.strerror(errno)}", path)
        finally:
            close(fd)
        self.map = <const uint8_t*> mapping
        self.path = path
        self.inode = inode
        self.named_epoch = named_epoch
        self.file_limit = min(<uint64_t> size, self.map_bytes)
        self.salt = header.salt
        self.base_offset = header.base_offset
        self.base_byte_pos = header.base_byte_pos
        self.epoch = header.epoch
        self.partition = header.partition
        self.topic_uuid = header.topic_uuid
        self.range_end = header.range_end
        self.verified_to = SEGMENT_DATA_START
        self.indexed_to = SEGMENT_DATA_START
        self.indexed_max_timestamp = NO_TIMESTAMP

    def __dealloc__(self):
        if self.map is not NULL:
            munmap(<void*> self.map, self.map_bytes)
        free(self.index)

    cdef bint reaches(self, uint64_t position) except -1:
        if position <= self.file_limit:
            return True
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found is None or found.st_ino != self.inode:      # what we map stays as it was
            self.replaced = True
            return False
        self.file_limit = min(<uint64_t> found.st_size, self.map_bytes)
        return position <= self.file_limit

    # ---- the sparse index ------------------------------------------------------------------------------

    cdef int add_index_entry(self, int64_t base_offset, uint64_t position) except -1:
        cdef index_entry_t* grown
        if self.index_count == self.index_capacity:
            self.index_capacity = self.index_capacity * 2 or 64
            grown = <index_entry_t*> realloc(self.index, self.index_capacity * sizeof(index_entry_t))
            if grown is NULL:
                raise MemoryError()
            self.index = grown
        self.index[self.index_count].relative_offset = <uint32_t> (base_offset - self.base_offset)
        self.index[self.index_count].position = <uint32_t> position
        self.index[self.index_count].max_timestamp = self.indexed_max_timestamp
        self.index_count += 1
        return 0

    cdef int index_up_to(self, uint64_t limit, int64_t offset) except -1:
        """Extend the index to the batches that start before `limit`, and no further than `offset`."""
        cdef uint64_t position = self.indexed_to
        cdef const uint8_t* p
        cdef int what
        if self.index_complete or position >= limit:
            return 0
        if not self.reaches(limit):
            limit = self.file_limit
        while position + BATCH_HEADER_BYTES <= limit:
            p = self.map + position
            what = what_stands(p, limit - position, self.salt, position)
            if what == STANDS_BATCH and loadi64(p + BH_BASE_OFFSET) > offset:
                break
            if what == STANDS_FOOTER:
                self.index_complete = True
                break
            if what != STANDS_BATCH:       # damage: whoever reads there is told; the index passes over it
                position = find_next_valid(self.map, position + 8, limit, self.salt)
                continue
            self.index_batch(p, position)
            position += load32(p + BH_TOTAL_LENGTH)
        self.indexed_to = position
        return 0

    cdef int index_published(self, uint64_t end) except -1:
        """Extend the index up to `end` from header to header, no checksum taken, and stop at an odd one.

        Entries stay in the order of offsets, so that a damaged header misleads nobody: who reads checks it.
        """
        cdef uint64_t position = self.indexed_to, total
        cdef int64_t offset = self.base_offset
        cdef const uint8_t* p
        cdef uint32_t attributes
        while position + BATCH_HEADER_BYTES <= end:
            p = self.map + position
            total = load32(p + BH_TOTAL_LENGTH)
            attributes = load32(p + BH_ATTRIBUTES)
            if load32(p) != <uint32_t> BATCH_MAGIC or total & 7 or not (
                BATCH_HEADER_BYTES + blocks_bytes(attributes) <= total <= end - position
                and offset <= loadi64(p + BH_BASE_OFFSET) <= next_offset_of(p)
            ):
                break
            self.index_batch(p, position)
            offset = next_offset_of(p)
            position += total
        self.indexed_to = position
        return 0

    cdef int index_batch(self, const uint8_t* p, uint64_t position) except -1:
        """Enter the batch at `position` if the last entry is far enough behind; its time is for the next."""
        cdef int64_t newest
        if self.index_count == 0 or (
            position - self.index[self.index_count - 1].position >= INDEX_INTERVAL_BYTES
        ):
            self.add_index_entry(loadi64(p + BH_BASE_OFFSET), position)
        if not load32(p + BH_ATTRIBUTES) & <uint32_t> ATTR_MARK:
            newest = max_timestamp_of(p)
            if newest > self.indexed_max_timestamp:
                self.indexed_max_timestamp = newest
        return 0

    cdef uint64_t position_of(self, int64_t offset, uint64_t limit) except 0:
        """File position of the first batch that ends behind `offset`, else of the end (limit or footer)."""
        self.index_up_to(limit, offset)
        cdef uint32_t low = 0, high = self.index_count, middle
        cdef uint64_t behind, position = SEGMENT_DATA_START
        cdef const uint8_t* p
        cdef int what
        while low < high:                  # the last entry whose batch starts at or before the offset
            middle = (low + high) // 2
            if self.base_offset + self.index[middle].relative_offset <= offset:
                low = middle + 1
            else:
                high = middle
        if low:
            position = self.index[low - 1].position
        if not self.reaches(limit):
            limit = self.file_limit
        while position + BATCH_HEADER_BYTES <= limit:
            p = self.map + position
            what = what_stands(p, limit - position, self.salt, position)
            if what == STANDS_FOOTER or (what == STANDS_BATCH and next_offset_of(p) > offset):
                return position
            if what == STANDS_BATCH:
                position += load32(p + BH_TOTAL_LENGTH)
                continue
            # damage: where it hides the offset its place is the answer, else what stands behind it
            behind = find_next_valid(self.map, position + 8, limit, self.salt)
            p = self.map + behind
            if behind >= limit or offset < loadi64(
                p + (BH_BASE_OFFSET if load32(p) == <uint32_t> BATCH_MAGIC else FT_END_OFFSET)
            ):
                return position
            position = behind
        return position

    cdef uint64_t position_of_time(self, int64_t timestamp, uint64_t limit) except 0:
        """File position from where walking finds the first record with a timestamp >= `timestamp`."""
        self.index_up_to(limit, INT64_MAX)
        cdef uint32_t low = 0, high = self.index_count, middle
        while low < high:                  # the last entry before which everything is older
            middle = (low + high) // 2
            if self.index[middle].max_timestamp < timestamp:
                low = middle + 1
            else:
                high = middle
        return self.index[low - 1].position if low else <uint64_t> SEGMENT_DATA_START

    # ---- the .index file -------------------------------------------------------------------------------

    def index_path(self) -> str:
        """Path of the index file that belongs to this segment."""
        return self.path.removesuffix(".log") + ".index"

    def save_index(self, end_position: int) -> None:
        """Write the .index file of this sealed segment whose footer stands at `end_position`.

        It is a cache: an error is the caller's to ignore, and nothing is synced.
        """
        if self.reaches(end_position + FOOTER_PRODUCERS):
            self.index_published(end_position)
        self.index_up_to(end_position + FOOTER_PRODUCERS, INT64_MAX)
        entries = (<const char*> self.index)[:self.index_count * sizeof(index_entry_t)]
        cdef uint8_t header[INDEX_HEADER_BYTES]
        memset(header, 0, INDEX_HEADER_BYTES)
        memcpy(header, <const char*> b"pylogidx", 8)
        store32(header + IX_VERSION, FORMAT_VERSION)
        store32(header + IX_ENTRY_COUNT, self.index_count)
        store64(header + IX_SALT, self.salt)
        store64(header + IX_BODY_CHECKSUM, xxh3(<const char*> entries, len(entries)))
        store64(header + IX_CHECKSUM, header_checksum(header, IX_CHECKSUM, self.salt, 0))
        temporary = f"{self.index_path()}.{secrets.token_hex(4)}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, header[:INDEX_HEADER_BYTES] + entries)
        finally:
            os.close(fd)
        os.rename(temporary, self.index_path())

    def load_index(self) -> bool:
        """Take the .index file if it fits this segment; False where it must be built by walking."""
        try:
            fd = os.open(self.index_path(), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        cdef bytes data
        try:
            with os.fdopen(fd, "rb") as file:
                most = self.map_bytes // INDEX_INTERVAL_BYTES + 2
                data = file.read(INDEX_HEADER_BYTES + most * INDEX_ENTRY_BYTES)
        except OSError:
            return False
        cdef const uint8_t* p = data
        cdef uint64_t count, i, last = SEGMENT_DATA_START
        if len(data) < INDEX_HEADER_BYTES or data[:8] != b"pylogidx":
            return False
        if load32(p + IX_VERSION) != FORMAT_VERSION:
            return False
        count = load32(p + IX_ENTRY_COUNT)
        if (
            load64(p + IX_SALT) != self.salt
            or header_checksum(p, IX_CHECKSUM, self.salt, 0) != load64(p + IX_CHECKSUM)
            or <uint64_t> len(data) != INDEX_HEADER_BYTES + count * INDEX_ENTRY_BYTES
            or xxh3(p + INDEX_HEADER_BYTES, count * INDEX_ENTRY_BYTES) != load64(p + IX_BODY_CHECKSUM)
            or count == 0
        ):
            return False
        for i in range(count):
            position = load32(p + INDEX_HEADER_BYTES + i * INDEX_ENTRY_BYTES + IE_POSITION)
            if position < last or position >= self.file_limit or position & 7:
                return False
            last = position
        cdef index_entry_t* entries = <index_entry_t*> realloc(self.index, count * sizeof(index_entry_t))
        if entries is NULL:
            raise MemoryError()
        memcpy(entries, p + INDEX_HEADER_BYTES, count * sizeof(index_entry_t))
        self.index = entries
        self.index_count = self.index_capacity = <uint32_t> count
        self.index_complete = True
        return True
