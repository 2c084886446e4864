# cython: language_level=3
"""Records of several small batches that become one large one."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.batch cimport RecordBatch
from logcore.builder cimport BatchBuilder

cdef class BatchRun:
    cdef BatchBuilder builder
    cdef int64_t* offsets                    # of the records
    cdef int count, capacity
    cdef int batches                         # that the records came from
    cdef bint compressed                     # one of those was
    cdef int64_t bytes                       # of the bodies of those
    cdef int64_t base_offset, next_offset
    cdef int64_t synced_offset               # that the first of them states

    cdef bint takes(self, RecordBatch batch, int n, int64_t most_bytes) noexcept nogil
    cdef int add(self, RecordBatch batch, const uint8_t* source, const uint32_t* kept, int n) except -1
    cdef uint64_t room(self) noexcept nogil
    cdef uint32_t encode(self, uint8_t* place, uint32_t* front) except 0
