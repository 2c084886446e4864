# cython: language_level=3
"""The two checked copies of a partition's committed offset, read and written in a mapping. Header only.

Invariant: what read_copy() calls whole was written by one write_copy() for just this place and table, however
many processes write meanwhile and wherever one was killed.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from logcore.hashing cimport header_checksum

cdef extern from *:
    """
    #define copy_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    void copy_fence() nogil

cdef enum:
    OFFSETS_FIRST_BLOCK = 8192
    OFFSETS_BLOCK_BYTES = 8192        # a page of first copies, a page of second ones
    OFFSETS_BLOCK_PARTITIONS = 64
    COPY_BYTES = 64
    COPY_CHECKSUM = 56

cdef enum copy_state:
    COPY_EMPTY
    COPY_WHOLE
    COPY_BROKEN

cdef struct offset_copy_t:            # docs/FORMAT.md section 9
    uint64_t version                  # grows with each change; 0: never written
    int64_t offset                    # next to read, -1: none
    uint32_t epoch                    # of the partition
    uint32_t generation               # of the group, when its owner got the partition
    uint32_t metadata_bytes
    uint32_t reserved32
    uint64_t metadata_checksum
    uint64_t reserved[2]
    uint64_t checksum


cdef inline uint64_t copy_position(int partition, int which) noexcept nogil:
    """File position of the first (0) or second (1) copy: on different pages, so that none tears both."""
    return (
        OFFSETS_FIRST_BLOCK + <uint64_t> (partition // OFFSETS_BLOCK_PARTITIONS) * OFFSETS_BLOCK_BYTES
        + <uint64_t> which * 4096 + <uint64_t> (partition % OFFSETS_BLOCK_PARTITIONS) * COPY_BYTES
    )


cdef inline uint64_t metadata_position(int partition, int which) noexcept nogil:
    """Position of a copy's metadata in its own file."""
    return (2 * <uint64_t> partition + which) * 4096


cdef inline void write_copy(
    uint8_t* mapping, uint64_t salt, int partition, int which, offset_copy_t* fresh
) noexcept nogil:
    cdef uint64_t position = copy_position(partition, which)
    fresh.checksum = header_checksum(<const uint8_t*> fresh, COPY_CHECKSUM, salt, position)
    copy_fence()
    memcpy(mapping + position, fresh, COPY_BYTES)
    copy_fence()


cdef inline int read_copy(
    const uint8_t* mapping, uint64_t salt, int partition, int which, offset_copy_t* found
) noexcept nogil:
    """Take the copy out of the mapping, then judge what was taken: others may be writing it."""
    cdef uint64_t position = copy_position(partition, which)
    cdef const uint64_t* words = <const uint64_t*> found
    cdef uint64_t any_bit = 0
    cdef int i
    copy_fence()
    memcpy(found, mapping + position, COPY_BYTES)
    copy_fence()
    for i in range(8):
        any_bit |= words[i]
    if any_bit == 0:
        return COPY_EMPTY
    if found.checksum != header_checksum(<const uint8_t*> found, COPY_CHECKSUM, salt, position):
        return COPY_BROKEN
    return COPY_WHOLE
