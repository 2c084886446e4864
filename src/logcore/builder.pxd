# cython: language_level=3
"""BatchBuilder: column buffers that become one encoded batch."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    STAMP_NOW = -0x7FFFFFFFFFFFFFFF - 1      # INT64_MIN: the batch's own time
    NULL_LENGTH = -1                         # length of a null key or value

cdef class BatchBuilder:
    cdef readonly int record_count
    cdef readonly long long body_bytes       # an upper bound of the raw body if finished now

    cdef int add(
        self, const uint8_t* key, Py_ssize_t key_bytes, const uint8_t* value, Py_ssize_t value_bytes,
        const uint8_t* headers, Py_ssize_t headers_bytes, int64_t timestamp, int64_t sequence,
    ) except -1
    # one record; NULL_LENGTH says null; headers already encoded (encode_headers); sequence -1: none

    cdef uint8_t* finish(
        self, int codec, int level, uint64_t producer_id, uint32_t producer_epoch, bint has_producer, uint32_t* length
    ) except NULL
    # the encoded batch in the builder's own memory, valid until reset(): header complete but for base offset,
    # epoch, synced offset and checksum, which batch_header.seal_batch_header() fills in under the append lock

    cdef void reset(self) noexcept

cdef bytes encode_headers(object headers)
# None, dict or iterable of (str, bytes | None) -> the bytes of FORMAT.md section 4; TypeError, ValueError

cdef uint32_t single_bytes(bint has_key, Py_ssize_t key_bytes, Py_ssize_t value_bytes, Py_ssize_t headers_bytes) noexcept nogil
cdef void encode_single(
    uint8_t* out, const uint8_t* key, Py_ssize_t key_bytes, const uint8_t* value, Py_ssize_t value_bytes,
    const uint8_t* headers, Py_ssize_t headers_bytes, int64_t timestamp,
) noexcept nogil
# a batch of one record straight into `out` (single_bytes() bytes), checksummed body, same state as after finish()
