# cython: language_level=3
"""A walk over one segment file by pread: for recovery, dump, verify and repair."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum scan_kind:
    SCAN_END = 0        # nothing valid follows: `tail_broken` says whether unreadable bytes stand here
    SCAN_BATCH = 1
    SCAN_FOOTER = 2
    SCAN_BREAK = 3      # [position, position + length) is neither; something valid stands behind

cdef class SegmentScan:
    cdef int fd
    cdef uint8_t* window                      # the part of the file that is in memory
    cdef uint64_t window_at, window_bytes, window_capacity
    cdef readonly str path
    cdef readonly unsigned long long file_bytes
    cdef readonly bytes header                # the valid copy of the segment header, b"" where none is
    cdef uint64_t salt
    cdef readonly unsigned long long next_position
    # what the last step() found
    cdef readonly int kind
    cdef readonly unsigned long long position
    cdef readonly unsigned long long length
    cdef readonly bint tail_broken
    cdef bint passed_over                     # find_next() saw bytes that are not zero
    cdef const uint8_t* entry                 # its header (footers: whole) in the window

    cdef const uint8_t* peek(self, uint64_t position, uint64_t size) except? NULL
    cdef int stands_at(self, uint64_t position) except -2
    cdef object batch(self, bint verify_body)
    cdef object footer(self)
    cdef int step(self) except -1
    cdef bint body_holds(self) except -1
    cdef uint64_t find_next(self, uint64_t position) except 0
    cpdef int seek(self, unsigned long long position) except -1
    cpdef int close(self) except -1
