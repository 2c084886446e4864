# cython: language_level=3
"""Where each column of one raw body is."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

cdef struct columns_t:
    const uint8_t* body                      # raw (decompressed)
    uint32_t body_bytes                      # a multiple of 8
    uint32_t attributes
    Py_ssize_t record_count
    const int64_t* timestamps                # NULL: all equal the batch's
    const uint32_t* deltas                   # NULL: dense
    const int64_t* sequences                 # NULL: dense or no producer
    const uint8_t* key_validity              # NULL: none is null
    const uint8_t* value_validity            # NULL: none is null
    const int32_t* key_offsets               # NULL: every key is null
    const uint8_t* keys
    const int32_t* header_offsets            # NULL: no record has headers
    const uint8_t* headers
    const int32_t* value_offsets
    const uint8_t* values

cdef int place_columns(columns_t* columns) except -1
# body, body_bytes, attributes and record_count are given; fills in the rest. ValueError(reason)

cdef int check_columns(columns_t* columns) except -1
# ValueError(reason) where offsets fall, a null has bytes, or record headers are malformed

cdef int check_timestamps(columns_t* columns, int64_t first, int64_t newest) except -1
cdef int check_deltas(columns_t* columns, int64_t span) except -1
cdef int check_sequences(columns_t* columns, int64_t first, int64_t last) except -1
# ValueError(reason) where the column exists and does not rise, or does not fit what the header says

cdef inline bint bit_at(const uint8_t* bits, Py_ssize_t i) noexcept nogil:
    return bits[i >> 3] >> (i & 7) & 1
