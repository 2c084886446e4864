# cython: language_level=3
"""A batch of one record, encoded straight into place."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef extern from *:
    """
    #include <stdint.h>
    #define PYLOG_STAMP_NOW INT64_MIN
    """
    const int64_t STAMP_NOW "PYLOG_STAMP_NOW"     # as a timestamp: the batch's own time

cdef int64_t wall_clock() noexcept nogil     # ns since 1970

cdef uint32_t single_bytes(
    bint has_key, Py_ssize_t key_bytes, Py_ssize_t value_bytes, Py_ssize_t headers_bytes
) noexcept nogil
# bytes of a batch of one record; 0 where that is beyond MAX_BATCH_BYTES; NULL_LENGTH says null

cdef void encode_single(
    uint8_t* out, const uint8_t* key, Py_ssize_t key_bytes, const uint8_t* value, Py_ssize_t value_bytes,
    const uint8_t* headers, Py_ssize_t headers_bytes, int64_t timestamp,
) noexcept nogil
# into `out` (single_bytes() bytes), headers already encoded; the header as after BatchBuilder.finish()
