# cython: language_level=3
"""Where the records of each key stand in one segment: in memory while it grows, then in its .keys file.

Keys are known by XXH3-64, so what is found is looked at before it is believed to be of the key. The file is a
cache (FORMAT.md, section 5): one that does not fit its segment is built anew. Invariant: the keys of all
records in [base_offset, end_offset) are known, or the object is not there.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from logcore.batch cimport RecordBatch
from logcore.columns cimport bit_at
from logcore.failpoints cimport failpoint
from logcore.format cimport *
from logcore.hashing cimport header_checksum, xxh3
from logcore.linux cimport (
    MAP_FAILED, MAP_SHARED, O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, PROT_READ, close, file_bytes, mmap,
    munmap, open as open_file, write_all,
)

import os
import secrets
from contextlib import suppress

cdef enum:
    FIRST_CAPACITY = 1 << 8


cdef int add_keyed_record(keyed_records_t* some, const keyed_record_t* record) except -1:
    cdef keyed_record_t* grown
    if some.count == some.capacity:
        some.capacity = some.capacity * 2 or 64
        grown = <keyed_record_t*> realloc(some.at, some.capacity * sizeof(keyed_record_t))
        if grown is NULL:
            raise MemoryError()
        some.at = grown
    some.at[some.count] = record[0]
    some.count += 1
    return 0


cdef int in_order(const void* a, const void* b) noexcept nogil:
    """By hash, then by offset."""
    cdef const keyed_record_t* x = <const keyed_record_t*> a
    cdef const keyed_record_t* y = <const keyed_record_t*> b
    if x.hash != y.hash:
        return -1 if x.hash < y.hash else 1
    return (x.relative_offset > y.relative_offset) - (x.relative_offset < y.relative_offset)


def keys_path(segment_path: str) -> str:
    """Path of the .keys file that belongs to a segment."""
    return segment_path.removesuffix(".log") + ".keys"


cdef class SegmentKeys:
    """The keys of a segment with this base offset and salt: none yet, until add_batch() or load()."""

    def __cinit__(self, base_offset: int, salt: int):
        self.base_offset = self.end_offset = base_offset
        self.salt = salt

    def __dealloc__(self):
        self.drop_buckets()
        if self.mapping is not NULL:
            munmap(self.mapping, self.mapped_bytes)
        else:
            free(self.entries)

    def __len__(self):
        return self.count

    # ---- while the segment grows ------------------------------------------------------------------------

    cdef int add_batch(self, RecordBatch batch, uint64_t position) except -1:
        """Take the keys of a batch that stands at a file position. Batches come in their order."""
        cdef const int32_t* at = batch.columns.key_offsets
        cdef const uint8_t* validity = batch.columns.key_validity
        cdef keyed_record_t* entry
        cdef uint64_t bucket
        cdef int i
        if at is not NULL:
            while self.count + batch.record_count > self.capacity:
                self.grow()
            with nogil:
                for i in range(batch.record_count):
                    if validity is not NULL and not bit_at(validity, i):
                        continue
                    entry = &self.entries[self.count]
                    entry.hash = xxh3(batch.columns.keys + at[i], at[i + 1] - at[i])
                    entry.relative_offset = <uint32_t> (batch.offset_at(i) - self.base_offset)
                    entry.position = <uint32_t> position
                    bucket = entry.hash & (self.buckets - 1)
                    self.older[self.count] = self.newest[bucket]
                    self.count += 1
                    self.newest[bucket] = <uint32_t> self.count
        self.end_offset = batch.next_offset
        return 0

    cdef int grow(self) except -1:
        """Twice the room, and as many buckets as entries."""
        cdef uint64_t capacity = self.capacity * 2 or FIRST_CAPACITY
        cdef uint64_t i, bucket
        cdef keyed_record_t* entries
        entries = <keyed_record_t*> realloc(self.entries, capacity * sizeof(keyed_record_t))
        if entries is NULL:
            raise MemoryError()
        self.entries = entries
        cdef uint32_t* older = <uint32_t*> realloc(self.older, capacity * sizeof(uint32_t))
        if older is NULL:
            raise MemoryError()
        self.older = older
        cdef uint32_t* newest = <uint32_t*> calloc(capacity, sizeof(uint32_t))
        if newest is NULL:
            raise MemoryError()
        free(self.newest)
        self.newest, self.buckets, self.capacity = newest, capacity, capacity
        with nogil:
            for i in range(self.count):
                bucket = self.entries[i].hash & (capacity - 1)
                self.older[i] = newest[bucket]
                newest[bucket] = <uint32_t> i + 1
        return 0

    cdef void drop_buckets(self) noexcept nogil:
        free(self.newest)
        free(self.older)
        self.newest = self.older = NULL

    def seal(self) -> None:
        """Sort by key: nothing is added from now on."""
        if self.is_sorted:
            return
        with nogil:
            self.drop_buckets()
            if self.count:
                qsort(self.entries, self.count, sizeof(keyed_record_t), in_order)
        self.is_sorted = True

    # ---- looking up -------------------------------------------------------------------------------------

    cdef int collect(
        self, uint64_t hash, int64_t first, int64_t behind, Py_ssize_t most, bint backward,
        keyed_records_t* found,
    ) except -1:
        cdef Py_ssize_t start = found.count, left, right
        cdef uint64_t low, high, i
        cdef keyed_record_t wanted, swapped
        first = max(first - self.base_offset, <int64_t> 0)
        behind = min(behind, self.end_offset) - self.base_offset
        if first >= behind or self.count == 0 or most == 0:
            return 0
        if self.is_sorted:
            wanted.hash, wanted.relative_offset = hash, <uint32_t> first
            low = self.lower_bound(&wanted)
            wanted.relative_offset = <uint32_t> behind
            high = self.lower_bound(&wanted)
            if not backward:
                for i in range(low, min(high, low + <uint64_t> most)):
                    add_keyed_record(found, &self.entries[i])
                return 0
            while high > low and found.count - start < most:
                high -= 1
                add_keyed_record(found, &self.entries[high])
            return 0
        i = self.newest[hash & (self.buckets - 1)]
        while i and (not backward or found.count - start < most):
            i -= 1
            if self.entries[i].relative_offset < first:
                break
            if self.entries[i].hash == hash and self.entries[i].relative_offset < behind:
                add_keyed_record(found, &self.entries[i])
            i = self.older[i]
        if not backward:
            left, right = start, found.count - 1
            while left < right:
                swapped = found.at[left]
                found.at[left] = found.at[right]
                found.at[right] = swapped
                left += 1
                right -= 1
            found.count = min(found.count, start + most)
        return 0

    cdef uint64_t lower_bound(self, const keyed_record_t* wanted) noexcept nogil:
        """The first entry that is not before `wanted`."""
        cdef uint64_t low = 0, high = self.count, middle
        while low < high:
            middle = (low + high) // 2
            if in_order(&self.entries[middle], wanted) < 0:
                low = middle + 1
            else:
                high = middle
        return low

    # ---- the .keys file ---------------------------------------------------------------------------------

    def save(self, segment_path: str) -> None:
        """Write the .keys file of a sealed segment. It is a cache: nothing is synced. Raises OSError."""
        cdef uint8_t header[INDEX_HEADER_BYTES]
        cdef uint64_t size = self.count * sizeof(keyed_record_t)
        cdef int fd, error
        self.seal()
        memset(header, 0, INDEX_HEADER_BYTES)
        memcpy(header, <const char*> b"pylogkey", 8)
        store32(header + IX_VERSION, FORMAT_VERSION)
        store32(header + IX_ENTRY_COUNT, <uint32_t> self.count)
        store64(header + IX_SALT, self.salt)
        store64(header + IX_BODY_CHECKSUM, xxh3(self.entries, size))
        storei64(header + IX_END_OFFSET, self.end_offset)
        store64(header + IX_CHECKSUM, header_checksum(header, IX_CHECKSUM, self.salt, 0))
        path = keys_path(segment_path)
        temporary = f"{path}.{secrets.token_hex(4)}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                with nogil:
                    error = write_all(fd, header, INDEX_HEADER_BYTES, 0)
                    if error == 0 and size:
                        error = write_all(fd, <const uint8_t*> self.entries, size, INDEX_HEADER_BYTES)
            finally:
                os.close(fd)
            if error:
                raise OSError(error, os.strerror(error), temporary)
            failpoint("keys.written")
            os.rename(temporary, path)
            failpoint("keys.renamed")
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def load(self, segment_path: str) -> bool:
        """Take the .keys file if it fits the segment; False where the keys must be read from the segment."""
        cdef int fd = open_file(
            os.fsencode(keys_path(segment_path)), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK
        )
        cdef void* mapping
        cdef int64_t size
        cdef bint fits
        if fd < 0:
            return False
        size = file_bytes(fd)
        if size < INDEX_HEADER_BYTES or size > INDEX_HEADER_BYTES + (<int64_t> 1 << 32) * INDEX_ENTRY_BYTES:
            close(fd)
            return False
        mapping = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0)
        close(fd)
        if mapping is MAP_FAILED:
            return False
        with nogil:
            fits = keys_fit(<const uint8_t*> mapping, size, self.salt, self.base_offset)
        if not fits:
            munmap(mapping, size)
            return False
        self.drop_buckets()
        if self.mapping is NULL:
            free(self.entries)
        else:
            munmap(self.mapping, self.mapped_bytes)
        self.mapping, self.mapped_bytes = mapping, size
        self.entries = <keyed_record_t*> (<uint8_t*> mapping + INDEX_HEADER_BYTES)
        self.count = load32(<const uint8_t*> mapping + IX_ENTRY_COUNT)
        self.end_offset = loadi64(<const uint8_t*> mapping + IX_END_OFFSET)
        self.is_sorted = True
        return True


cdef bint keys_fit(const uint8_t* p, uint64_t size, uint64_t salt, int64_t base_offset) noexcept nogil:
    """True where a whole .keys file of that segment stands here."""
    cdef uint64_t count = load32(p + IX_ENTRY_COUNT), _
    cdef const uint8_t* entry = p + INDEX_HEADER_BYTES
    cdef int64_t end_offset = loadi64(p + IX_END_OFFSET)
    if memcmp(p, <const char*> b"pylogkey", 8) != 0 or load32(p + IX_VERSION) != FORMAT_VERSION:
        return False
    if load64(p + IX_SALT) != salt:
        return False
    if header_checksum(p, IX_CHECKSUM, salt, 0) != load64(p + IX_CHECKSUM):
        return False
    if size != INDEX_HEADER_BYTES + count * INDEX_ENTRY_BYTES or not base_offset <= end_offset <= MAX_OFFSET:
        return False
    if xxh3(p + INDEX_HEADER_BYTES, count * INDEX_ENTRY_BYTES) != load64(p + IX_BODY_CHECKSUM):
        return False
    for _ in range(1, count):
        if in_order(entry, entry + INDEX_ENTRY_BYTES) >= 0:
            return False
        entry += INDEX_ENTRY_BYTES
    return True
