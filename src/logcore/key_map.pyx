# cython: language_level=3
"""The last offset of each key, in bounded memory: what compaction keeps.

Keys are known by 128 bits of XXH3, not by their bytes: among a thousand million keys the chance that any two
have the same is below 1 in 10^20. An entry is 24 bytes, and at most three in four are used: 32 bytes a key.
Invariant: the map never takes more memory than it was given; when it is full it says how far it came.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from logcore.batch cimport RecordBatch
from logcore.columns cimport bit_at
from logcore.format cimport *

import xxhash
from xxhash import _xxhash

cdef extern from *:
    """
    #include <dlfcn.h>
    #include <stdint.h>
    typedef struct { uint64_t low, high; } pylog_hash128;
    static inline uint64_t pylog_scaled(uint64_t hash, uint64_t capacity) {
        return (uint64_t) (((unsigned __int128) hash * capacity) >> 64);
    }
    #define pylog_prefetch(p) __builtin_prefetch((p), 1)
    """
    void* dlopen(const char* path, int flags)
    void* dlsym(void* handle, const char* name)
    int RTLD_NOW
    uint64_t scaled "pylog_scaled"(uint64_t hash, uint64_t capacity) nogil
    void prefetch "pylog_prefetch"(void* p) nogil
    ctypedef struct hash128_t "pylog_hash128":
        uint64_t low
        uint64_t high

ctypedef hash128_t (*xxh3_128_function)(const void* data, size_t size) noexcept nogil

cdef enum:
    AT_ONCE = 32                 # records whose entries are on their way from memory at the same time
    LEAST_CAPACITY = 1 << 10

cdef xxh3_128_function native_xxh3_128 = NULL


cdef xxh3_128_function find_native():
    """Take XXH3_128bits from the xxhash extension module, as hashing.pyx does; NULL where there is none."""
    cdef bytes path = _xxhash.__file__.encode()
    cdef void* handle = dlopen(path, RTLD_NOW)
    cdef xxh3_128_function candidate
    cdef bytes sample
    cdef hash128_t found
    if handle is NULL:
        return NULL
    for name in (b"XXH3_128bits_dispatch", b"XXH3_128bits"):
        candidate = <xxh3_128_function> dlsym(handle, name)
        if candidate is NULL:
            continue
        for size in (0, 1, 3, 8, 16, 17, 128, 129, 240, 241, 1000):
            sample = bytes((i * 131 + 7) & 0xFF for i in range(size))
            found = candidate(<const char*> sample, size)
            if (int(found.high) << 64 | found.low) != xxhash.xxh3_128_intdigest(sample):
                break
        else:
            return candidate
    return NULL


native_xxh3_128 = find_native()


cdef void package_hash(const uint8_t* data, Py_ssize_t size, key_hash_t* out) noexcept with gil:
    digest = xxhash.xxh3_128_intdigest(PyBytes_FromStringAndSize(<const char*> data, size))
    out.low = digest & <uint64_t> 0xFFFFFFFFFFFFFFFF
    out.high = digest >> 64


cdef inline void hash_key(const uint8_t* data, Py_ssize_t size, key_hash_t* out) noexcept nogil:
    cdef hash128_t found
    if native_xxh3_128 is NULL:
        package_hash(data, size, out)
        return
    found = native_xxh3_128(data, size)
    out.low = found.low
    out.high = found.high


cdef inline bint has_key(RecordBatch batch, Py_ssize_t i) noexcept nogil:
    cdef const uint8_t* validity = batch.columns.key_validity
    return batch.columns.key_offsets is not NULL and (validity is NULL or bit_at(validity, i))


cdef inline bint is_tombstone(RecordBatch batch, Py_ssize_t i) noexcept nogil:
    cdef const uint8_t* validity = batch.columns.value_validity
    return validity is not NULL and not bit_at(validity, i)


cdef inline key_entry_t* home_of(KeyMap keys, const key_hash_t* hash) noexcept nogil:
    return &keys.entries[scaled(hash.low, keys.capacity)]


cdef inline key_entry_t* entry_of(KeyMap keys, const key_hash_t* hash) noexcept nogil:
    """The entry of a key, or the free one in which it belongs."""
    cdef key_entry_t* entry = home_of(keys, hash)
    cdef key_entry_t* behind = keys.entries + keys.capacity
    while entry.next_offset and (entry.hash.low != hash.low or entry.hash.high != hash.high):
        entry += 1
        if entry == behind:
            entry = keys.entries
    return entry


cdef void look_ahead(KeyMap keys, RecordBatch batch, int start, int stop, key_hash_t* hashes) noexcept nogil:
    """Hash the keys of [start, stop), and let their entries come from memory."""
    cdef const int32_t* at = batch.columns.key_offsets
    cdef int i
    for i in range(start, stop):
        hash_key(batch.columns.keys + at[i], at[i + 1] - at[i], &hashes[i - start])
        prefetch(home_of(keys, &hashes[i - start]))


cdef class KeyMap:
    """Room for the keys of `records` records, as far as `memory_bytes` allow. Raises MemoryError."""

    def __cinit__(self, records: int, memory_bytes: int):
        # filled to three quarters at most: a key beyond that costs one more pass over all segments
        self.capacity = max(LEAST_CAPACITY, min(records * 4 // 3 + 4, memory_bytes // sizeof(key_entry_t)))
        self.most = self.capacity // 4 * 3
        self.entries = <key_entry_t*> calloc(self.capacity, sizeof(key_entry_t))
        if self.entries is NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.entries)

    cdef int put(self, RecordBatch batch, int start) except -1:
        cdef key_hash_t hashes[AT_ONCE]
        cdef key_entry_t* entry
        cdef int i, stop
        if batch.columns.key_offsets is NULL:
            return batch.record_count
        with nogil:
            while start < batch.record_count:
                stop = min(start + AT_ONCE, batch.record_count)
                look_ahead(self, batch, start, stop, hashes)
                for i in range(start, stop):
                    if not has_key(batch, i):
                        continue
                    entry = entry_of(self, &hashes[i - start])
                    if entry.next_offset == 0:
                        if self.count == self.most:
                            return i
                        self.count += 1
                        entry.hash = hashes[i - start]
                    entry.next_offset = batch.offset_at(i) + 1
                start = stop
        return start

    cdef int survivors(
        self, RecordBatch batch, int64_t covered, int64_t tombstones_below, uint32_t* kept
    ) except -1:
        """Records stay that are the last of their key below `covered`, that have no key, or are behind it.

        Tombstones below `tombstones_below` go, though they are the last of their key.
        """
        cdef key_hash_t hashes[AT_ONCE]
        cdef key_entry_t* entry
        cdef int i, stop, start = 0, count = 0
        cdef int64_t offset
        with nogil:
            while start < batch.record_count:
                stop = min(start + AT_ONCE, batch.record_count)
                if batch.columns.key_offsets is not NULL:
                    look_ahead(self, batch, start, stop, hashes)
                for i in range(start, stop):
                    offset = batch.offset_at(i)
                    if has_key(batch, i) and offset < covered:
                        entry = entry_of(self, &hashes[i - start])
                        if entry.next_offset > offset + 1:
                            continue
                        if offset < tombstones_below and is_tombstone(batch, i):
                            continue
                    kept[count] = i
                    count += 1
                start = stop
        return count

    def put_batch(self, batch: RecordBatch, start: int = 0) -> int:
        """Take the records of a batch from index `start` on, in order; the index behind those taken."""
        return self.put(batch, start)

    def last_offset(self, key: bytes) -> int | None:
        """The offset of the last record with `key` that was put, None where there was none."""
        cdef key_hash_t hash
        hash_key(<const uint8_t*> <const char*> key, len(key), &hash)
        cdef key_entry_t* entry = entry_of(self, &hash)
        return entry.next_offset - 1 if entry.next_offset else None
