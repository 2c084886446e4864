# cython: language_level=3
"""Where the records of each key stand in one segment."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.batch cimport RecordBatch

cdef struct keyed_record_t:                  # as it stands in a .keys file
    uint64_t hash                            # XXH3-64 of the key
    uint32_t relative_offset                 # offset - the segment's base offset
    uint32_t position                        # file position of the batch

cdef struct keyed_records_t:                 # some of them, in a row that grows
    keyed_record_t* at
    Py_ssize_t count
    Py_ssize_t capacity

cdef int add_keyed_record(keyed_records_t* some, const keyed_record_t* record) except -1

cdef class SegmentKeys:
    cdef readonly long long base_offset      # of the segment
    cdef readonly long long end_offset       # the keys below it are known
    cdef uint64_t salt                       # the segment's
    cdef keyed_record_t* entries             # in the order of offsets; sorted by hash once `sorted`
    cdef uint64_t count, capacity
    cdef bint is_sorted
    cdef uint32_t* newest                    # while it grows: 1 + the newest entry of a bucket, 0: none
    cdef uint32_t* older                     # ... and of each entry, 1 + the one before it in its bucket
    cdef uint64_t buckets                    # a power of two
    cdef void* mapping                       # the .keys file, where the entries stand in it
    cdef uint64_t mapped_bytes

    cdef int add_batch(self, RecordBatch batch, uint64_t position) except -1
    cdef int grow(self) except -1
    cdef void drop_buckets(self) noexcept nogil
    cdef uint64_t lower_bound(self, const keyed_record_t* wanted) noexcept nogil
    cdef int collect(
        self, uint64_t hash, int64_t first, int64_t behind, Py_ssize_t most, bint backward,
        keyed_records_t* found,
    ) except -1
    # adds those with that hash and an offset in [first, behind), at most so many, oldest or newest first
