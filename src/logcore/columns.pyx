# cython: language_level=3
"""Finds the columns of one raw body (FORMAT.md, section 4) and checks every entry of them.

Knows neither header nor records. Invariant: place_columns() leaves only pointers to columns that lie wholly
inside the body, and after check_columns() every offset lies inside its column.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from logcore.format cimport *
from logcore.record_headers cimport check_headers


cdef const uint8_t* take(columns_t* columns, uint64_t* at, uint64_t size) except NULL:
    """The next `size` bytes of the body; the column behind begins at a multiple of 8, zeros between."""
    cdef const uint8_t* column = columns.body + at[0]
    cdef uint64_t i, padded = align8(size)
    if padded > columns.body_bytes - at[0]:
        raise ValueError("a column ends outside of the body")
    for i in range(size, padded):
        if column[i] != 0:
            raise ValueError("what lies between the columns is not zero")
    at[0] += padded
    return column


cdef const uint8_t* take_bytes(columns_t* columns, uint64_t* at, const int32_t* offsets) except NULL:
    """The bytes that `offsets` point into."""
    cdef int32_t size = offsets[columns.record_count]
    if offsets[0] != 0 or size < 0:
        raise ValueError("a column's offsets do not begin at 0")
    return take(columns, at, <uint64_t> size)


cdef int place_columns(columns_t* columns) except -1:
    """Find each column in the body; nothing but their ends is read."""
    cdef uint64_t at = 0
    cdef uint64_t n = columns.record_count
    cdef uint32_t attributes = columns.attributes
    if attributes & ATTR_TIMESTAMPS:
        columns.timestamps = <const int64_t*> take(columns, &at, 8 * n)
    if attributes & ATTR_OFFSET_DELTAS:
        columns.deltas = <const uint32_t*> take(columns, &at, 4 * n)
    if attributes & ATTR_SEQUENCES:
        columns.sequences = <const int64_t*> take(columns, &at, 8 * n)
    if attributes & ATTR_KEY_NULLS:
        columns.key_validity = take(columns, &at, (n + 7) >> 3)
    if attributes & ATTR_VALUE_NULLS:
        columns.value_validity = take(columns, &at, (n + 7) >> 3)
    if attributes & ATTR_KEYS:
        columns.key_offsets = <const int32_t*> take(columns, &at, 4 * (n + 1))
        columns.keys = take_bytes(columns, &at, columns.key_offsets)
    if attributes & ATTR_HEADERS:
        columns.header_offsets = <const int32_t*> take(columns, &at, 4 * (n + 1))
        columns.headers = take_bytes(columns, &at, columns.header_offsets)
    columns.value_offsets = <const int32_t*> take(columns, &at, 4 * (n + 1))
    columns.values = take_bytes(columns, &at, columns.value_offsets)
    if at != columns.body_bytes:
        raise ValueError("the body does not end with its last column")
    return 0


cdef bint falls(const int32_t* offsets, Py_ssize_t n) noexcept nogil:
    cdef bint bad = False
    cdef Py_ssize_t i
    for i in range(n):                   # without an early end the compiler makes it a vector loop
        bad |= offsets[i + 1] < offsets[i]
    return bad


cdef bint null_has_bytes(const uint8_t* validity, const int32_t* offsets, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if not bit_at(validity, i) and offsets[i + 1] != offsets[i]:
            return True
    return False


cdef int check_columns(columns_t* columns) except -1:
    """Check every entry of every column."""
    cdef Py_ssize_t i, begin, n = columns.record_count
    if falls(columns.value_offsets, n):
        raise ValueError("value offsets fall")
    if columns.key_offsets is not NULL and falls(columns.key_offsets, n):
        raise ValueError("key offsets fall")
    if columns.value_validity is not NULL and null_has_bytes(columns.value_validity, columns.value_offsets, n):
        raise ValueError("a null value has bytes")
    if columns.key_validity is not NULL and null_has_bytes(columns.key_validity, columns.key_offsets, n):
        raise ValueError("a null key has bytes")
    if columns.header_offsets is not NULL:
        if falls(columns.header_offsets, n):
            raise ValueError("header offsets fall")
        for i in range(n):
            begin = columns.header_offsets[i]
            check_headers(columns.headers + begin, columns.header_offsets[i + 1] - begin)
    return 0
