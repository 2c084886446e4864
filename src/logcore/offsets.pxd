# cython: language_level=3
"""Committed offsets of one consumer group for one topic, in mapped memory."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.linux cimport pthread_mutex_t
from logcore.offset_copies cimport offset_copy_t
from logcore.processes cimport Registry

cdef struct offsets_shared_t:         # the file's second page: of living processes, void in another session
    uint64_t session
    pthread_mutex_t lock              # robust, process-shared; guards every change of a copy
    uint32_t holder                   # pid that holds it
    uint32_t poisoned                 # errno of a sync that failed
    uint32_t unsettled                # a transaction may have committed offsets that are not stored yet

cdef class OffsetTable:
    cdef uint8_t* mapping             # NULL: read-only, and nothing was committed yet
    cdef size_t mapping_bytes
    cdef offsets_shared_t* shared
    cdef uint64_t salt
    cdef uint32_t forks
    cdef int fd, metadata_fd
    cdef int users                    # calls without the GIL: the last one closes what close() could not
    cdef bint closed
    cdef readonly Registry registry
    cdef readonly str path
    cdef readonly bytes topic_uuid
    cdef readonly int partitions

    # All under lock(); change nothing where they raise.
    cdef int lock(self) except -1
    cdef int unlock(self) except -1
    cdef int check_generation(self, int partition, uint32_t generation) except -1
    cdef int store(
        self, int partition, int64_t offset, uint32_t epoch, uint32_t generation, bytes metadata
    ) except -1
    cdef int make_room(self, int partition, bytes metadata) except -1    # store() then writes to memory only
    cdef int put(
        self, int partition, int kept, uint64_t version, int64_t offset, uint32_t epoch, uint32_t generation,
        bytes metadata,
    ) except -1                       # `kept` as newest() returns it
    cdef int settle(self) except -1   # what a transaction of a dead owner has for this table

    cdef int newest(self, int partition, offset_copy_t* found) except -2
    cdef int write_metadata(self, int partition, int which, bytes metadata) except -1
    cdef object metadata_of(self, int partition, const offset_copy_t* copy)   # bytes, or None: lost

    # What a caller may do; each raises the named error.
    cdef int check_open(self) except -1
    cdef int check_writable(self) except -1
    cdef int check_poison(self) except -1
    cdef int check_partition(self, int64_t partition) except -1
    cdef int check_numbers(self, int64_t partition, int64_t generation) except -1
