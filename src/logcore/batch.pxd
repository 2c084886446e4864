# cython: language_level=3
"""Record and RecordBatch: batches as they are read. Building them is in builder.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from logcore.columns cimport columns_t
from logcore.record_ids cimport RecordId, RecordIds, new_record_id, new_record_ids

cdef class RecordBatch:
    cdef object owner                        # keeps the bytes alive: a segment mapping, or bytes
    cdef columns_t columns
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly long long base_offset
    cdef readonly long long next_offset
    cdef readonly int record_count
    cdef readonly unsigned int epoch
    cdef readonly long long base_timestamp
    cdef readonly long long max_timestamp
    cdef readonly unsigned int attributes
    cdef readonly unsigned int stored_bytes  # of the whole batch as it is in the segment
    cdef uint64_t producer                   # this and the three below: only where has_producer
    cdef uint32_t producer_generation        # the producer's epoch
    cdef int64_t sequence_first
    cdef int64_t sequence_last
    cdef bint has_producer

    cdef int64_t offset_at(self, Py_ssize_t i) noexcept nogil
    cdef int64_t timestamp_at(self, Py_ssize_t i) noexcept nogil
    cdef int64_t sequence_at(self, Py_ssize_t i) noexcept nogil          # -1: no producer
    cdef bytes key_at(self, Py_ssize_t i)                                # None: null
    cdef bytes value_at(self, Py_ssize_t i)                              # None: null
    cdef int first_at_or_after(self, int64_t offset) noexcept nogil      # index of the first record there
    cdef list headers_of(self, Py_ssize_t i)
    cdef object array_of(self, const void* column, int type, Py_ssize_t count)
    cdef list records(self, int start, int stop)                         # presized list of Record

cdef RecordBatch view_batch(
    object owner, const uint8_t* batch, str topic, int partition, bint verify, uint64_t max_body_bytes
)
# `batch` was accepted by check_batch() and is no mark. Verifies the body's checksum and all columns' entries
# where asked (without: the same bytes were verified before), decompresses, checks every column's bounds.
# Raises ValueError(reason) for a bad body; the caller makes it a CorruptionError with the place.

cdef class Record:
    cdef RecordBatch batch
    cdef int index
