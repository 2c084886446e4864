# cython: language_level=3
"""Record headers: (name, value) pairs as bytes and back."""

from libc.stdint cimport int32_t, int64_t, uint8_t

cdef enum:
    FIXED_BYTES = 6                      # of a header: u16 name length, i32 value length

cdef class PackedHeaders:
    cdef bytes data                      # as they stand in a record

cdef PackedHeaders packed_headers(bytes data)
# of what encode_headers() would return

cdef uint8_t* put_front(
    uint8_t* at, const char* name, Py_ssize_t name_bytes, int32_t value_bytes
) noexcept nogil
# what stands before the value of a header; the place of the value

cdef int check_limits(Py_ssize_t count, int64_t size) except -1
# ValueError, RecordTooLargeError beyond the limits

cdef Py_ssize_t count_headers(const uint8_t* data, Py_ssize_t size) noexcept nogil
# of what encode_headers() returned

cdef bytes encode_headers(object headers)
# None, dict or iterable of (str, bytes | None) -> the bytes of FORMAT.md section 4; TypeError, ValueError

cdef list decode_headers(const uint8_t* data, Py_ssize_t size)
# [(name, value or None)]; ValueError where the bytes are not what the format says

cdef int check_headers(const uint8_t* data, Py_ssize_t size) except -1
# ValueError where decode_headers() would raise it

cdef Py_ssize_t header_bytes(const uint8_t* data, Py_ssize_t left) noexcept nogil
# length of the header that begins at `data`, -1 where it does not end inside `left` bytes
