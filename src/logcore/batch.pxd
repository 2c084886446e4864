# cython: language_level=3
"""Record, RecordId, RecordBatch: batches as they are read. Building them is in builder.pyx."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef class RecordId:
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly long long offset
    cdef readonly bint duplicate             # an idempotent append that was in already

cdef RecordId new_record_id(str topic, int partition, int64_t offset)

cdef class RecordBatch:
    cdef object owner                        # keeps the bytes alive: a segment mapping, or the bytes object itself
    cdef const uint8_t* body                 # the raw (decompressed) body
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly long long base_offset
    cdef readonly long long next_offset
    cdef readonly int record_count
    cdef readonly int epoch
    cdef readonly long long base_timestamp
    cdef readonly unsigned int attributes
    cdef const int64_t* timestamp_column     # NULL: all equal base_timestamp
    cdef const uint32_t* delta_column        # NULL: dense
    cdef const int64_t* sequence_column      # NULL: dense or no producer
    cdef const uint8_t* key_validity         # NULL: none is null
    cdef const uint8_t* value_validity       # NULL: none is null
    cdef const int32_t* key_offsets          # NULL: every key is null
    cdef const uint8_t* keys
    cdef const int32_t* header_offsets       # NULL: no record has headers
    cdef const uint8_t* headers
    cdef const int32_t* value_offsets
    cdef const uint8_t* values

    cdef int64_t offset_at(self, int i) noexcept nogil
    cdef int first_at_or_after(self, int64_t offset) noexcept nogil      # index of the first record with offset >= it
    cdef list records(self, int start, int stop)                         # presized list of Record

cdef RecordBatch view_batch(
    object owner, const uint8_t* batch, str topic, int partition, bint verify, uint64_t max_body_bytes
)
# `batch` was accepted by check_batch(). Verifies the body's checksum where asked, decompresses, checks every
# column's bounds. Raises ValueError(reason) for a bad body; the caller makes it a CorruptionError with the place.

cdef class Record:
    cdef RecordBatch batch
    cdef int index
