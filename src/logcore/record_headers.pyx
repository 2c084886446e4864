# cython: language_level=3
"""The headers of one record as bytes and back (FORMAT.md, section 4).

No meaning is given to any name here. Invariant: order and duplicates are kept, and no byte outside of the
`size` that was given is read, whatever the lengths inside say.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from logcore.errors import RecordTooLargeError
from logcore.format cimport MAX_BATCH_BYTES, MAX_HEADERS_PER_RECORD, load16, load32, load64, store16, store32
from logcore.inputs cimport fast_items, fast_size

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    MAX_NAME_BYTES = 65535


cdef Py_ssize_t encoded_bytes(object item) except -1:
    """Check one (name, value); the bytes that it takes."""
    cdef Py_ssize_t name_bytes = 0
    if not isinstance(item, (tuple, list)) or fast_size(item) != 2:
        raise TypeError("headers are a dict or an iterable of (name, value)")
    name, value = <object> fast_items(item)[0], <object> fast_items(item)[1]
    if not isinstance(name, str):
        raise TypeError(f"the name of a header is str, not {type(name).__name__}")
    if value is not None and not isinstance(value, bytes):
        raise TypeError(f"the value of header {name!r} is bytes or None, not {type(value).__name__}")
    try:
        PyUnicode_AsUTF8AndSize(name, &name_bytes)
    except UnicodeEncodeError:
        raise ValueError(f"the name of header {name!r} cannot be encoded as UTF-8") from None
    if name_bytes > MAX_NAME_BYTES:
        raise ValueError(f"a header's name has {name_bytes} bytes, beyond the limit of {MAX_NAME_BYTES}")
    return FIXED_BYTES + name_bytes + (0 if value is None else PyBytes_GET_SIZE(value))


cdef uint8_t* put_front(
    uint8_t* at, const char* name, Py_ssize_t name_bytes, int32_t value_bytes
) noexcept nogil:
    store16(at, <uint16_t> name_bytes)
    memcpy(at + 2, name, name_bytes)
    store32(at + 2 + name_bytes, <uint32_t> value_bytes)
    return at + FIXED_BYTES + name_bytes


cdef uint8_t* put_header(uint8_t* at, object item) except NULL:
    """Write one that was checked; the place behind it."""
    cdef Py_ssize_t size = 0
    cdef const char* name = PyUnicode_AsUTF8AndSize(<object> fast_items(item)[0], &size)
    value = <object> fast_items(item)[1]
    if value is None:
        return put_front(at, name, size, -1)
    at = put_front(at, name, size, <int32_t> PyBytes_GET_SIZE(value))
    memcpy(at, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return at + PyBytes_GET_SIZE(value)


@cython.final
@cython.freelist(128)
cdef class PackedHeaders:
    """Headers encoded once: an iterable of (name, value or None) that goes into a record as it is.

    Raises TypeError or ValueError that names the bad header or the limit.
    """

    def __init__(self, headers=None):
        self.data = encode_headers(headers)

    def __iter__(self):
        return iter(headers_from_bytes(self.data))

    def __repr__(self):
        return f"PackedHeaders({list(self)!r})"

    def __reduce__(self):
        return PackedHeaders, (list(self),)


cdef PackedHeaders packed_headers(bytes data):
    cdef PackedHeaders packed = PackedHeaders.__new__(PackedHeaders)
    packed.data = data
    return packed


cdef int check_limits(Py_ssize_t count, int64_t size) except -1:
    if count > MAX_HEADERS_PER_RECORD:
        raise ValueError(f"a record has {count} headers, beyond the limit of {MAX_HEADERS_PER_RECORD}")
    if size > MAX_BATCH_BYTES:
        raise RecordTooLargeError(
            f"headers of {size} bytes are beyond the limit of {<int64_t> MAX_BATCH_BYTES}",
            size=size, limit=MAX_BATCH_BYTES,
        )
    return 0


cdef bytes encode_headers(object headers):
    cdef object pairs = headers
    cdef bytes joined
    cdef int64_t size = 0
    cdef Py_ssize_t i
    cdef uint8_t* at
    if headers is None:
        return b""
    if type(headers) is PackedHeaders:
        return (<PackedHeaders> headers).data
    if not isinstance(headers, (list, tuple)):
        if isinstance(headers, (str, bytes)) or not hasattr(headers, "__iter__"):
            raise TypeError(
                f"headers are a dict or an iterable of (name, value), not {type(headers).__name__}"
            )
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
    for i in range(fast_size(pairs)):
        size += encoded_bytes(<object> fast_items(pairs)[i])
    check_limits(fast_size(pairs), size)
    joined = PyBytes_FromStringAndSize(NULL, size)
    at = <uint8_t*> PyBytes_AS_STRING(joined)
    for i in range(fast_size(pairs)):
        at = put_header(at, <object> fast_items(pairs)[i])
    return joined


cdef Py_ssize_t header_bytes(const uint8_t* data, Py_ssize_t left) noexcept nogil:
    """Length of the header that begins at `data`, or -1 where it does not end inside `left` bytes."""
    cdef Py_ssize_t name_bytes
    cdef int32_t value_bytes
    if left < FIXED_BYTES:
        return -1
    name_bytes = load16(data)
    if name_bytes > left - FIXED_BYTES:
        return -1
    value_bytes = <int32_t> load32(data + 2 + name_bytes)
    if value_bytes < -1 or value_bytes > left - FIXED_BYTES - name_bytes:
        return -1
    return FIXED_BYTES + name_bytes + (0 if value_bytes < 0 else value_bytes)


cdef Py_ssize_t count_headers(const uint8_t* data, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t at = 0, count = 0
    while at < size:
        at += header_bytes(data + at, size - at)
        count += 1
    return count


cdef list decode_headers(const uint8_t* data, Py_ssize_t size):
    cdef list headers = []
    cdef Py_ssize_t at = 0, length, name_bytes
    cdef int32_t value_bytes
    while at < size:
        length = header_bytes(data + at, size - at)
        if length < 0:
            raise ValueError("a record header ends outside of its record")
        name_bytes = load16(data + at)
        value_bytes = <int32_t> load32(data + at + 2 + name_bytes)
        headers.append((
            PyUnicode_DecodeUTF8(<char*> data + at + 2, name_bytes, NULL),
            None if value_bytes < 0 else PyBytes_FromStringAndSize(
                <const char*> data + at + FIXED_BYTES + name_bytes, value_bytes
            ),
        ))
        at += length
    return headers


cdef bint is_ascii(const uint8_t* text, Py_ssize_t size) noexcept nogil:
    cdef uint64_t high = 0
    cdef Py_ssize_t i = 0
    while i + 8 <= size:
        high |= load64(text + i)
        i += 8
    while i < size:
        high |= text[i]
        i += 1
    return high & <uint64_t> 0x8080808080808080 == 0


cdef int check_headers(const uint8_t* data, Py_ssize_t size) except -1:
    cdef Py_ssize_t at = 0, length
    while at < size:
        length = header_bytes(data + at, size - at)
        if length < 0:
            raise ValueError("a record header ends outside of its record")
        if not is_ascii(data + at + 2, load16(data + at)):       # UnicodeDecodeError is a ValueError
            PyUnicode_DecodeUTF8(<char*> data + at + 2, load16(data + at), NULL)
        at += length
    return 0


def headers_to_bytes(headers):
    """Encode headers (None, dict, or iterable of (str, bytes or None)) as they stand in a batch.

    Raises TypeError or ValueError that names the bad header or the limit.
    """
    return encode_headers(headers)


def headers_from_bytes(bytes data not None):
    """Decode what headers_to_bytes() made; ValueError where the bytes are damaged."""
    return decode_headers(<const uint8_t*> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
